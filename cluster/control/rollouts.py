"""Rollouts: what a change must reach, and what that is judged by. Pure.

A rollout of a rotation names the tasks that follow the primary at that moment, a rollout of a
service its tasks; both take in what placement adds while they hold anything back. How a rollout
goes on is `rollout_steps`' business, how one task stands `rollout_targets`', and what is kept from
a task meanwhile the business of `cluster.store.holds`. Source: DESIGN 6.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from cluster.control.versions import follows_primary
from cluster.protocol.ids import (
    NodeId,
    RolloutId,
    SecretId,
    ServiceId,
    TaskId,
    VersionNumber,
)
from cluster.store.holds import Holds
from cluster.store.records import (
    NodeState,
    RolloutKind,
    RolloutRecord,
    RolloutState,
    SecretReference,
    ServiceRecord,
    ServiceSpec,
    TaskRecord,
    TaskState,
    TaskStatusRecord,
    VersionedRecord,
)
from cluster.store.steps import Replace
from cluster.store.view import Stored, View

KEPT: Final = 20
"""Finished rollouts that are remembered."""
NO_ROLLOUT: Final = "there is no such rollout; finished ones are kept for a while only"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the state of a rollout is computed from."""

    service: Mapping[ServiceId, ServiceRecord]
    secret: Mapping[SecretId, VersionedRecord]
    """Secrets, and configs, which references mean alike."""
    running: Mapping[TaskId, TaskRecord]
    status: Mapping[TaskId, TaskStatusRecord]
    settled: frozenset[ServiceId]
    """Services whose tasks all stand where placement wants them, as many as asked for."""
    ready: frozenset[NodeId] = frozenset()
    """Nodes with a session."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Of nodes, by id."""
    holds: Holds = field(default_factory=Holds)

    def spec_of(self, task: TaskRecord) -> ServiceSpec | None:
        """Return the spec a task runs by now: its service's, or the one it is held at."""
        held = self.holds.spec(task)
        if held is not None:
            return held.spec
        service = self.service.get(task.service_id)
        return service.spec if service is not None else None


def facts_of(view: View, settled: Iterable[ServiceId] = ()) -> Facts:
    """Return the facts as the view has them; which services are settled only placement knows."""
    tasks = (stored.record for stored in view.tasks.values())
    statuses = (stored.record for stored in view.node_statuses.values())
    return Facts(
        service={ServiceId(s.record.id): s.record for s in view.services.values()},
        secret={
            SecretId(s.record.id): s.record
            for s in (*view.secrets.values(), *view.configs.values())
        },
        running={TaskId(t.id): t for t in tasks if t.state is TaskState.RUNNING},
        status={TaskId(s.record.id): s.record for s in view.task_statuses.values()},
        settled=frozenset(settled),
        ready=frozenset(NodeId(s.id) for s in statuses if s.state is NodeState.READY),
        names={stored.record.id: stored.record.name for stored in view.nodes.values()},
        holds=view.holds,
    )


def concerns(rollout: RolloutRecord, task: TaskRecord, facts: Facts) -> bool:
    """Return whether a rollout changes what a running task holds."""
    if rollout.what is RolloutKind.SERVICE:
        return task.service_id == rollout.service_id and task.service_id in facts.service
    spec = facts.spec_of(task)
    return (
        spec is not None
        and rollout.secret_id is not None
        and follows_primary(rollout.secret_id, spec)
    )


def concerned_tasks(view: View, secret_id: SecretId) -> list[tuple[TaskRecord, ServiceSpec]]:
    """Return the running tasks that follow a secret's primary, each with the spec it runs by."""
    found: list[tuple[TaskRecord, ServiceSpec]] = []
    for service in view.services_referring_to(secret_id):
        for stored in view.tasks_of_service(ServiceId(service.record.id)):
            task = stored.record
            held = view.holds.spec(task)
            spec = held.spec if held is not None else service.record.spec
            if task.state is TaskState.RUNNING and follows_primary(secret_id, spec):
                found.append((task, spec))
    return sorted(found, key=lambda one: one[0].id)


def supersede(view: View, by: RolloutRecord) -> list[Replace]:
    """Return the steps that end the unfinished rollouts which `by` takes over."""
    return [
        Replace(
            stored,
            msgspec.structs.replace(
                stored.record,
                state=RolloutState.SUPERSEDED,
                finished_at=by.started_at,
                superseded_by=RolloutId(by.id),
            ),
        )
        for stored in view.rollouts.values()
        if stored.record.finished_at is None and _same_object(stored.record, by)
    ]


def outdated(rollouts: Iterable[Stored[RolloutRecord]]) -> list[Stored[RolloutRecord]]:
    """Return the finished rollouts beyond the newest `KEPT`."""
    finished = [stored for stored in rollouts if stored.record.finished_at is not None]
    finished.sort(key=lambda stored: (stored.record.started_at, stored.record.id))
    return finished[:-KEPT]


def desired_version(
    reference: SecretReference, secret: VersionedRecord | None, held: VersionNumber | None = None
) -> VersionNumber | None:
    """Return the version a reference means now, or None where its secret is gone.

    `held`: what an open rollout keeps its task at.
    """
    if reference.version is not None or secret is None:
        return reference.version
    return held or secret.primary.number


def _same_object(one: RolloutRecord, other: RolloutRecord) -> bool:
    if one.id == other.id or one.what is not other.what:
        return False
    if one.what is RolloutKind.ROTATE:
        return one.secret_id == other.secret_id
    return one.service_id == other.service_id
