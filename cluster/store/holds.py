"""What open rollouts keep from tasks: the version or the spec a task holds until its release.

Pure, and an index: the view keeps it beside its tables, so that an assignment costs no search.
A task that a rollout does not name (it was placed since) gets the change once the canaries have
taken it, and what was there before until then. At most one rollout of an object is open. Source:
DESIGN 6.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cluster.protocol.ids import NodeId, SecretId, ServiceId, TaskId, VersionNumber
from cluster.store.records import (
    HeldSpec,
    RolloutRecord,
    RolloutState,
    RolloutTarget,
    TaskRecord,
    task_id,
)

HOLDING = frozenset({RolloutState.RUNNING, RolloutState.PAUSED})


def is_holding(rollout: RolloutRecord) -> bool:
    """Return whether a rollout may keep something from a task."""
    return rollout.finished_at is None and rollout.policy is not None and rollout.state in HOLDING


def admits_newcomers(rollout: RolloutRecord) -> bool:
    """Return whether tasks placed since it began get the change at once."""
    return rollout.canary_passed and rollout.state is RolloutState.RUNNING


def held_number(rollout: RolloutRecord, target: RolloutTarget | None) -> int | None:
    """Return the version or the number of the spec a task is held at; None: it gets the change."""
    good = rollout.before_version or rollout.before_spec_number
    if target is None:
        return None if admits_newcomers(rollout) else good
    if target.released_at is not None:
        return None
    return target.before or good


@dataclass(frozen=True, slots=True)
class _Open:
    """A rollout that holds, with its targets by task."""

    rollout: RolloutRecord
    targets: dict[TaskId, RolloutTarget]

    def held(self, task: TaskId) -> int | None:
        return held_number(self.rollout, self.targets.get(task))


class Holds:
    """The rollouts that hold, by what they change."""

    def __init__(self, rollouts: Iterable[RolloutRecord] = ()) -> None:
        self._of_secret: dict[SecretId, _Open] = {}
        self._of_service: dict[ServiceId, _Open] = {}
        for rollout in rollouts:
            self.put(rollout)

    def put(self, rollout: RolloutRecord) -> None:
        """Take in a new state of a rollout."""
        if not is_holding(rollout):
            self.drop(rollout)
            return
        targets = {task_id(t.service_id, t.node_id): t for t in rollout.targets}
        entry = _Open(rollout, targets)
        if rollout.secret_id is not None:
            self._of_secret[rollout.secret_id] = entry
        elif rollout.service_id is not None:
            self._of_service[rollout.service_id] = entry

    def drop(self, rollout: RolloutRecord) -> None:
        """Forget a rollout; one that took its place stays."""
        if rollout.secret_id is not None:
            known = self._of_secret.get(rollout.secret_id)
            if known is not None and known.rollout.id == rollout.id:
                del self._of_secret[rollout.secret_id]
        elif rollout.service_id is not None:
            known = self._of_service.get(rollout.service_id)
            if known is not None and known.rollout.id == rollout.id:
                del self._of_service[rollout.service_id]

    def version(self, task: TaskRecord, secret_id: SecretId) -> VersionNumber | None:
        """Return the version a task holds of a secret instead of its primary; None: the primary."""
        entry = self._of_secret.get(secret_id)
        number = entry.held(TaskId(task.id)) if entry is not None else None
        return VersionNumber(number) if number is not None else None

    def spec(self, task: TaskRecord) -> HeldSpec | None:
        """Return the spec a task holds instead of its service's; None: the service's."""
        entry = self._of_service.get(task.service_id)
        number = entry.held(TaskId(task.id)) if entry is not None else None
        if entry is None or number is None:
            return None
        return next((held for held in entry.rollout.held_specs if held.number == number), None)

    def held_specs(self) -> Iterator[tuple[ServiceId, HeldSpec]]:
        """Yield every spec that open rollouts keep."""
        for service_id, entry in self._of_service.items():
            for held in entry.rollout.held_specs:
                yield service_id, held

    def held_uids(self) -> dict[str, frozenset[int]]:
        """Return the uids under which tasks of a service may still run, by its id."""
        uids: dict[str, frozenset[int]] = {}
        for service_id, held in self.held_specs():
            uids[service_id] = uids.get(service_id, frozenset()) | {held.spec.uid}
        return uids

    def services_holding(self, secret_id: SecretId) -> frozenset[ServiceId]:
        """Return the services of which a held spec refers to a secret."""
        return frozenset(
            service_id
            for service_id, held in self.held_specs()
            if any(reference.secret_id == secret_id for reference in held.spec.references)
        )


def nodes_moved(
    before: RolloutRecord | None, after: RolloutRecord | None
) -> tuple[frozenset[NodeId], bool]:
    """Return the nodes of targets that a change of a rollout releases or holds, and whether tasks
    which it does not name are concerned as well."""
    then = _released(before)
    now = _released(after)
    moved = {task.node_id for task in then.keys() | now.keys() if then.get(task) != now.get(task)}
    return frozenset(moved), _default(before) != _default(after)


@dataclass(frozen=True, slots=True)
class _Place:
    service_id: ServiceId
    node_id: NodeId


def _released(rollout: RolloutRecord | None) -> dict[_Place, int | None]:
    if rollout is None or not is_holding(rollout):
        return {}
    held = {_Place(t.service_id, t.node_id): held_number(rollout, t) for t in rollout.targets}
    return {place: number for place, number in held.items() if number is not None}


def _default(rollout: RolloutRecord | None) -> int | None:
    if rollout is None or not is_holding(rollout):
        return None
    return held_number(rollout, None)
