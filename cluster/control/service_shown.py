"""How services and their tasks look in answers: desired beside mounted, never a value. Pure."""

from cluster.control.moments import moment
from cluster.control.placement import place
from cluster.control.requests import JSON
from cluster.control.rollouts import desired_version
from cluster.control.update_draft import health_shown, update_shown
from cluster.protocol.ids import ServiceId
from cluster.store.records import (
    NodeState,
    OnChange,
    SecretReference,
    ServiceRecord,
    ServiceSpec,
    TaskRecord,
    TaskState,
    TaskStatusRecord,
)
from cluster.store.view import View


def service_shown(view: View, service: ServiceRecord) -> dict[str, JSON]:
    """Return what an operator sees of a service."""
    tasks = [task.record for task in view.tasks_of_service(ServiceId(service.id))]
    previous = service.previous_spec
    return {
        "id": service.id,
        "name": service.name,
        "spec": _spec(service.spec),
        "previous_spec": _spec(previous) if previous is not None else None,
        "spec_number": service.spec_number,
        "tasks_running": sum(task.state is TaskState.RUNNING for task in tasks),
        "tasks_desired": service.spec.replicas if service.spec.replicas is not None else len(tasks),
        "created_at": moment(service.created_at),
        "updated_at": moment(service.updated_at),
    }


def waiting(view: View, service: ServiceRecord, now_s: float) -> str:
    """Return why tasks of a service have no node yet, by the recorded states; empty if all have."""
    statuses = [stored.record for stored in view.node_statuses.values()]
    changes = place(
        services=[stored.record for stored in view.services.values()],
        nodes=[stored.record for stored in view.nodes.values()],
        states={status.id: status.state for status in statuses},
        tasks=[stored.record for stored in view.tasks.values()],
        now_s=now_s,
        shared_uids={status.id for status in statuses if status.mounts == "given"},
        held_uids=view.holds.held_uids(),
    )
    reasons = (s.reason for s in changes.skipped if s.service_id == service.id)
    return next(reasons, "")


def tasks_shown(view: View, service: ServiceRecord) -> list[dict[str, JSON]]:
    """Return a service's tasks by node name, each with its references."""
    tasks = [task.record for task in view.tasks_of_service(ServiceId(service.id))]
    shown = [_task(view, service, task) for task in tasks]
    return sorted(shown, key=lambda task: str(task["node"]))


def _task(view: View, service: ServiceRecord, task: TaskRecord) -> dict[str, JSON]:
    node = view.nodes.get(task.node_id)
    presence = view.node_statuses.get(task.node_id)
    stored = view.task_statuses.get(task.id)
    status = stored.record if stored is not None else None
    held = view.holds.spec(task)
    spec = held.spec if held is not None else service.spec
    return {
        "node": node.record.name if node is not None else task.node_id,
        "node_id": task.node_id,
        "node_state": (presence.record.state if presence else NodeState.UNKNOWN).value,
        "desired_state": task.state.value,
        "reason": task.reason,
        "since": moment(task.created_at),
        "spec_number": status.spec_number if status is not None else None,
        "error": status.error if status is not None else "",
        **_health(service, status),
        "references": [_mounted(view, task, reference, status) for reference in spec.references],
    }


def _health(service: ServiceRecord, status: TaskStatusRecord | None) -> dict[str, JSON]:
    """Return what the service's own check says of what is in place; "" where none is asked for."""
    if service.spec.health is None:
        return {"health": "", "health_detail": "", "health_since": None}
    if status is None or status.healthy is None:
        return {"health": "unknown", "health_detail": "", "health_since": None}
    return {
        "health": "healthy" if status.healthy else "unhealthy",
        "health_detail": status.health_detail,
        "health_since": moment(status.health_at),
    }


def _mounted(
    view: View, task: TaskRecord, reference: SecretReference, status: TaskStatusRecord | None
) -> dict[str, JSON]:
    secret = view.source(reference.secret_id)
    mounted = [m for m in status.mounted if m.secret_id == reference.secret_id] if status else []
    held = view.holds.version(task, reference.secret_id)
    wanted = desired_version(reference, secret.record if secret is not None else None, held)
    # A secret may be mounted twice, pinned and followed: the wanted version counts if it is there.
    found = max(mounted, key=lambda m: (m.version == wanted, m.version), default=None)
    return {
        "source": reference.source,
        "config": reference.config,
        "target": reference.target,
        "version_desired": wanted,
        "version_mounted": found.version if found is not None else None,
        "since": moment(found.since) if found is not None else None,
    }


def _spec(spec: ServiceSpec) -> dict[str, JSON]:
    return {
        "references": [_reference(reference) for reference in spec.references],
        "constraints": list(spec.constraints),
        "placement_prefs": list(spec.placement_prefs),
        "replicas": spec.replicas,
        "global": spec.replicas is None,
        "uid": spec.uid,
        "gid": spec.gid,
        "labels": spec.labels,
        "on_change": _on_change(spec.on_change),
        "update": update_shown(spec.update),
        "health": health_shown(spec.health),
        "certificate": spec.certificate,
        "logs": spec.logs,
    }


def _reference(reference: SecretReference) -> dict[str, JSON]:
    return {
        "source": reference.source,
        "target": reference.target,
        "uid": reference.uid,
        "gid": reference.gid,
        "mode": f"{reference.mode:04o}",
        "version": reference.version if reference.version is not None else "primary",
        "on_lease_loss": reference.on_lease_loss.value,
        "lease_s": reference.lease_s,
        "previous": reference.previous,
        "config": reference.config,
    }


def _on_change(on_change: OnChange | None) -> dict[str, JSON] | None:
    if on_change is None:
        return None
    return {
        "signal": on_change.signal,
        "command": list(on_change.command),
        "timeout_s": on_change.timeout_s,
    }
