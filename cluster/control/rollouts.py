"""Rollouts: what a change must reach, and what that is judged by. Pure.

A rollout of a rotation names the tasks that follow the primary at that moment, a rollout of a
service its tasks; both take in what placement adds while they hold anything back. How a rollout
goes on is `rollout_steps`' business, how one task stands `rollout_targets`', and what is kept from
a task meanwhile the business of `cluster.store.holds`. Source: DESIGN 6.
"""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import msgspec

from cluster.control.live_records import LiveRecords
from cluster.control.versions import follows_primary
from cluster.protocol.ids import (
    RolloutId,
    SecretId,
    ServiceId,
    VersionNumber,
)
from cluster.store.holds import Holds
from cluster.store.records import (
    NodeRecord,
    NodeState,
    NodeStatusRecord,
    Record,
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

R = TypeVar("R", bound=Record)

KEPT: Final = 20
"""Finished rollouts that are remembered."""
NO_ROLLOUT: Final = "there is no such rollout; finished ones are kept for a while only"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the state of a rollout is computed from."""

    service: Mapping[str, ServiceRecord]
    secret: Mapping[str, VersionedRecord]
    """Secrets, and configs, which references mean alike."""
    running: Mapping[str, TaskRecord]
    status: Mapping[str, TaskStatusRecord]
    settled: Container[str]
    """Services whose tasks all stand where placement wants them, as many as asked for."""
    ready: Container[str] = frozenset()
    """Nodes with a session."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Of nodes, by id."""
    holds: Holds = field(default_factory=Holds)
    near: Callable[[RolloutRecord], Iterable[TaskRecord]] | None = None
    """Returns the running tasks that a rollout may concern; None: all of them."""

    def tasks_near(self, rollout: RolloutRecord) -> Iterable[TaskRecord]:
        """Return every running task that a rollout concerns, and maybe others."""
        return self.running.values() if self.near is None else self.near(rollout)

    def spec_of(self, task: TaskRecord) -> ServiceSpec | None:
        """Return the spec a task runs by now: its service's, or the one it is held at."""
        held = self.holds.spec(task)
        if held is not None:
            return held.spec
        service = self.service.get(task.service_id)
        return service.spec if service is not None else None


def facts_of(view: View, settled: Container[str] = frozenset()) -> Facts:
    """Return the facts as the view has them; which services are settled only placement knows."""
    return Facts(
        service=LiveRecords(lambda i: _record(view.services.get(i)), view.services.__iter__),
        secret=LiveRecords(
            lambda i: _record(view.source(SecretId(i))),
            lambda: iter((*view.secrets, *view.configs)),
        ),
        running=LiveRecords(lambda i: _running(view.tasks.get(i)), view.tasks.__iter__),
        status=LiveRecords(
            lambda i: _record(view.task_statuses.get(i)), view.task_statuses.__iter__
        ),
        settled=settled,
        ready=LiveRecords(lambda i: _ready(view.node_statuses.get(i)), view.node_statuses.__iter__),
        names=LiveRecords(lambda i: _name(view.nodes.get(i)), view.nodes.__iter__),
        holds=view.holds,
        near=partial(_near, view),
    )


def _record(stored: Stored[R] | None) -> R | None:
    return stored.record if stored is not None else None


def _running(stored: Stored[TaskRecord] | None) -> TaskRecord | None:
    task = _record(stored)
    return task if task is not None and task.state is TaskState.RUNNING else None


def _ready(stored: Stored[NodeStatusRecord] | None) -> NodeStatusRecord | None:
    status = _record(stored)
    return status if status is not None and status.state is NodeState.READY else None


def _name(stored: Stored[NodeRecord] | None) -> str | None:
    return stored.record.name if stored is not None else None


def _near(view: View, rollout: RolloutRecord) -> list[TaskRecord]:
    services = {rollout.service_id} if rollout.service_id is not None else set()
    if rollout.secret_id is not None:
        referring = view.services_referring_to(rollout.secret_id)
        services |= {ServiceId(stored.record.id) for stored in referring}
    tasks = (stored.record for one in services for stored in view.tasks_of_service(one))
    return [task for task in tasks if task.state is TaskState.RUNNING]


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
