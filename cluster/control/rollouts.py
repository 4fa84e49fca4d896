"""Rollouts: what a change must reach, and how far it is. Pure.

A rollout of a rotation names the tasks that follow the primary at that moment. A rollout of a
service takes in the tasks that placement adds while it runs. A task counts as done when its agent
reported the files in place (`TaskStatusRecord`), not when they were sent. Source: DESIGN 6.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from cluster.control.moments import moment
from cluster.control.requests import JSON
from cluster.control.versions import follows_primary
from cluster.protocol.ids import RolloutId, SecretId, ServiceId, TaskId, VersionNumber
from cluster.store.records import (
    RolloutKind,
    RolloutRecord,
    RolloutTarget,
    SecretRecord,
    SecretReference,
    ServiceRecord,
    TargetState,
    TaskRecord,
    TaskState,
    TaskStatusRecord,
    task_id,
)
from cluster.store.steps import Replace
from cluster.store.view import Stored, View

KEPT: Final = 20
"""Finished rollouts that are remembered."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the state of a rollout is computed from."""

    service: Mapping[ServiceId, ServiceRecord]
    secret: Mapping[SecretId, SecretRecord]
    running: Mapping[TaskId, TaskRecord]
    status: Mapping[TaskId, TaskStatusRecord]
    settled: frozenset[ServiceId]
    """Services whose tasks all stand where placement wants them, as many as asked for."""


def facts_of(view: View, settled: Iterable[ServiceId] = ()) -> Facts:
    """Return the facts as the view has them; which services are settled only placement knows."""
    tasks = (stored.record for stored in view.tasks.values())
    return Facts(
        service={ServiceId(s.record.id): s.record for s in view.services.values()},
        secret={SecretId(s.record.id): s.record for s in view.secrets.values()},
        running={TaskId(t.id): t for t in tasks if t.state is TaskState.RUNNING},
        status={TaskId(s.record.id): s.record for s in view.task_statuses.values()},
        settled=frozenset(settled),
    )


def targets_of(tasks: Iterable[TaskRecord]) -> tuple[RolloutTarget, ...]:
    """Return a pending target for each task that runs, in the order of their ids."""
    running = sorted((t for t in tasks if t.state is TaskState.RUNNING), key=lambda task: task.id)
    return tuple(RolloutTarget(task.service_id, task.node_id) for task in running)


def supersede(view: View, by: RolloutRecord) -> list[Replace]:
    """Return the steps that end the unfinished rollouts which `by` takes over."""
    return [
        Replace(
            stored,
            msgspec.structs.replace(
                stored.record, finished_at=by.started_at, superseded_by=RolloutId(by.id)
            ),
        )
        for stored in view.rollouts.values()
        if stored.record.finished_at is None and _same_object(stored.record, by)
    ]


def advanced(rollout: RolloutRecord, facts: Facts, now_s: float) -> RolloutRecord:
    """Return the rollout with the state of every target as the agents reported it."""
    targets = tuple(
        _judged(rollout, target, facts, now_s) for target in _all_targets(rollout, facts)
    )
    over = all(target.state in {TargetState.DONE, TargetState.GONE} for target in targets)
    finished = over and _nothing_to_come(rollout, facts)
    return msgspec.structs.replace(
        rollout, targets=targets, finished_at=now_s if finished else None
    )


def outdated(rollouts: Iterable[Stored[RolloutRecord]]) -> list[Stored[RolloutRecord]]:
    """Return the finished rollouts beyond the newest `KEPT`."""
    finished = [stored for stored in rollouts if stored.record.finished_at is not None]
    finished.sort(key=lambda stored: (stored.record.started_at, stored.record.id))
    return finished[:-KEPT]


def desired_version(
    reference: SecretReference, secret: SecretRecord | None
) -> VersionNumber | None:
    """Return the version a reference means now, or None where its secret is gone."""
    if reference.version is not None or secret is None:
        return reference.version
    return secret.primary.number


def shown(rollout: RolloutRecord, view: View) -> dict[str, JSON]:
    """Return what an operator sees of a rollout, with the names of nodes and services."""
    return {
        "id": rollout.id,
        "what": rollout.what.value,
        "name": rollout.name,
        "version": rollout.version,
        "spec_number": rollout.spec_number,
        "started_at": moment(rollout.started_at),
        "started_by": rollout.started_by,
        "finished_at": moment(rollout.finished_at),
        "superseded_by": rollout.superseded_by,
        "targets": [_target_shown(target, view) for target in rollout.targets],
    }


def _target_shown(target: RolloutTarget, view: View) -> dict[str, JSON]:
    service = view.services.get(target.service_id)
    node = view.nodes.get(target.node_id)
    return {
        "service": service.record.name if service is not None else target.service_id,
        "node": node.record.name if node is not None else target.node_id,
        "state": target.state.value,
        "at": moment(target.at) if target.at else None,
        "error": target.error,
    }


def _same_object(one: RolloutRecord, other: RolloutRecord) -> bool:
    if one.id == other.id or one.what is not other.what:
        return False
    if one.what is RolloutKind.ROTATE:
        return one.secret_id == other.secret_id
    return one.service_id == other.service_id


def _all_targets(rollout: RolloutRecord, facts: Facts) -> tuple[RolloutTarget, ...]:
    """Return the targets, with the tasks that a service was given since the rollout began."""
    if rollout.what is RolloutKind.ROTATE:
        return rollout.targets
    known = {task_id(target.service_id, target.node_id) for target in rollout.targets}
    added = targets_of(
        task
        for task in facts.running.values()
        if task.service_id == rollout.service_id and task.id not in known
    )
    return (*rollout.targets, *added)


def _judged(
    rollout: RolloutRecord, target: RolloutTarget, facts: Facts, now_s: float
) -> RolloutTarget:
    state, error = _state_of(rollout, target, facts)
    if (state, error) == (target.state, target.error):
        return target
    return msgspec.structs.replace(target, state=state, at=now_s, error=error)


def _state_of(
    rollout: RolloutRecord, target: RolloutTarget, facts: Facts
) -> tuple[TargetState, str]:
    task = task_id(target.service_id, target.node_id)
    service = facts.service.get(target.service_id)
    if task not in facts.running or service is None:
        return TargetState.GONE, ""
    if rollout.what is RolloutKind.ROTATE and not _still_concerned(rollout, service):
        return TargetState.GONE, ""
    status = facts.status.get(task)
    if status is None:
        return TargetState.PENDING, ""
    if _in_place(rollout, service, status, facts):
        return TargetState.DONE, ""
    return (TargetState.FAILED, status.error) if status.error else (TargetState.PENDING, "")


def _still_concerned(rollout: RolloutRecord, service: ServiceRecord) -> bool:
    return rollout.secret_id is not None and follows_primary(rollout.secret_id, service.spec)


def _in_place(
    rollout: RolloutRecord, service: ServiceRecord, status: TaskStatusRecord, facts: Facts
) -> bool:
    if status.error:
        return False
    mounted = {(m.secret_id, m.version) for m in status.mounted}
    if rollout.what is RolloutKind.ROTATE:
        return (rollout.secret_id, rollout.version) in mounted
    wanted = {
        (reference.secret_id, desired_version(reference, facts.secret.get(reference.secret_id)))
        for reference in service.spec.references
    }
    return status.spec_number >= (rollout.spec_number or 0) and wanted <= mounted


def _nothing_to_come(rollout: RolloutRecord, facts: Facts) -> bool:
    """Return whether placement adds no more tasks: what is not placed is not rolled out."""
    if rollout.what is RolloutKind.ROTATE or rollout.service_id not in facts.service:
        return True
    return rollout.service_id in facts.settled
