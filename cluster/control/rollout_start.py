"""Beginning a rollout: whom it must reach, and what each task keeps until its turn. Pure.

What takes over an unfinished rollout goes on from what its tasks really hold, and what was good
before that one counts as good before this one too: nobody jumps to a version that was never proven.
"""

from typing import Final

import msgspec

from cluster.control.rollout_policy import AT_ONCE, UNCHANGED, PolicyChange, policy_for
from cluster.control.rollouts import concerned_tasks
from cluster.protocol.ids import SecretId, ServiceId, VersionNumber
from cluster.store.holds import is_holding
from cluster.store.records import (
    HeldSpec,
    RolloutKind,
    RolloutRecord,
    RolloutState,
    RolloutTarget,
    SecretRecord,
    ServiceRecord,
    ServiceSpec,
    TargetState,
    TaskRecord,
    TaskState,
    UpdatePolicy,
)
from cluster.store.view import View

_PROVEN: Final = frozenset({TargetState.DONE, TargetState.GONE, TargetState.UNREACHABLE})


def rotation_rollout(
    view: View,
    before: SecretRecord,
    after: SecretRecord,
    rollout_id: str,
    by: str,
    change: PolicyChange = UNCHANGED,
) -> RolloutRecord:
    """Return the rollout that brings the primary of `after` to every task that follows it."""
    secret_id = SecretId(after.id)
    version, left = after.primary.number, before.primary.number
    tasks = concerned_tasks(view, secret_id)
    policy = policy_for((spec for _, spec in tasks), change)
    good = _good_version(view, secret_id, left)
    now_s = after.updated_at
    targets = [
        _target(
            task,
            None if policy is not None else now_s,
            _unless(view.holds.version(task, secret_id) or left, good),
        )
        for task, _ in tasks
    ]
    return RolloutRecord(
        id=rollout_id,
        what=RolloutKind.ROTATE,
        name=after.name,
        secret_id=secret_id,
        version=version,
        targets=tuple(targets),
        started_at=now_s,
        started_by=by,
        state=RolloutState.RUNNING if targets else RolloutState.FINISHED,
        finished_at=None if targets else now_s,
        policy=policy,
        before_version=VersionNumber(good) if good != version else None,
        canary_passed=policy is None or policy.canary == 0,
    )


def update_rollout(
    view: View,
    before: ServiceRecord | None,
    after: ServiceRecord,
    rollout_id: str,
    by: str,
    change: PolicyChange = UNCHANGED,
) -> RolloutRecord:
    """Return the rollout that brings a service's spec to its tasks; `before`: None for a new one.

    A new service has nothing to keep, and what its nodes do not see needs no rest between them.
    """
    service_id = ServiceId(after.id)
    open_one = _open_rollout(view, service_id)
    unseen = before is not None and open_one is None and _seen(before.spec) == _seen(after.spec)
    policy = policy_for([after.spec], AT_ONCE if before is None or unseen else change)
    now_s = after.updated_at
    stored = (task.record for task in view.tasks_of_service(service_id))
    tasks = sorted((t for t in stored if t.state is TaskState.RUNNING), key=lambda task: task.id)
    rollout = RolloutRecord(
        id=rollout_id,
        what=RolloutKind.SERVICE,
        name=after.name,
        service_id=service_id,
        spec_number=after.spec_number,
        targets=tuple(_target(task, now_s, None) for task in tasks),
        started_at=now_s,
        started_by=by,
        canary_passed=True,
    )
    if before is None or policy is None:
        return rollout
    left = HeldSpec(before.spec_number, before.spec)
    good = _good_spec(open_one, left)
    own = {task.id: view.holds.spec(task) or left for task in tasks}
    kept = {one.number: one for one in (good, *own.values())}
    return msgspec.structs.replace(
        rollout,
        targets=tuple(
            _target(task, None, _unless(own[task.id].number, good.number)) for task in tasks
        ),
        policy=policy,
        before_spec_number=good.number,
        held_specs=tuple(kept[number] for number in sorted(kept)),
        canary_passed=policy.canary == 0,
    )


def _target(task: TaskRecord, released_at: float | None, before: int | None) -> RolloutTarget:
    state = TargetState.PENDING if released_at is None else TargetState.RELEASED
    return RolloutTarget(
        task.service_id,
        task.node_id,
        state=state,
        released_at=released_at,
        before=before if released_at is None else None,
    )


def _unless(number: int, good: int) -> int | None:
    """Return what a target keeps of its own: nothing where it keeps what was good before."""
    return None if number == good else number


def _open_rollout(view: View, changes: SecretId | ServiceId) -> RolloutRecord | None:
    """Return the rollout of a secret or a service that holds something back now."""
    for stored in view.rollouts.values():
        rollout = stored.record
        if changes in {rollout.secret_id, rollout.service_id} and is_holding(rollout):
            return rollout
    return None


def _is_proven(rollout: RolloutRecord) -> bool:
    states = {target.state for target in rollout.targets}
    return TargetState.DONE in states and states <= _PROVEN


def _good_version(view: View, secret_id: SecretId, left: VersionNumber) -> VersionNumber:
    open_one = _open_rollout(view, secret_id)
    if open_one is None or _is_proven(open_one):
        return left
    return open_one.before_version or left


def _good_spec(open_one: RolloutRecord | None, left: HeldSpec) -> HeldSpec:
    if open_one is None or _is_proven(open_one):
        return left
    number = open_one.before_spec_number
    return next((one for one in open_one.held_specs if one.number == number), left)


def _seen(spec: ServiceSpec) -> ServiceSpec:
    """Return what a node sees of a spec."""
    return msgspec.structs.replace(
        spec, constraints=(), replicas=None, labels={}, update=UpdatePolicy()
    )
