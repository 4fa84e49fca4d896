"""How a rollout goes on: from how it stands, and what is reported, to how it stands next. Pure.

    running --a group is over, its delay too--> running, with the next group released
            --a task fails--> paused | rolling_back | running (as its policy says)
            --every task is over--> finished | failed
    paused  --every task is done after all--> finished
    rolling_back --every task is back or given up--> rolled_back | failed

A group is released only when nothing that was released before is still open: first the canaries,
then as many at once as the policy allows. A rollout without a policy has one group, released as it
began. All that a step rests on is in the record, so any manager can take the next one. Source:
docs/explanation/rollouts.md.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from cluster.control.rollout_targets import judged, judged_back, released
from cluster.control.rollouts import Facts, concerns
from cluster.protocol.ids import TaskId
from cluster.store.holds import admits_newcomers, is_holding
from cluster.store.records import (
    FailureAction,
    RolloutKind,
    RolloutRecord,
    RolloutState,
    RolloutTarget,
    TargetState,
    UpdatePolicy,
    task_id,
)

_OVER: Final = frozenset({TargetState.DONE, TargetState.GONE})
_NAMED: Final = 3
"""Failures that a reason names; each target tells its own."""


def step(rollout: RolloutRecord, facts: Facts, now_s: float) -> RolloutRecord:
    """Return an open rollout as it stands now, with whatever may be released.

    One that comes back as `rolling_back` and was not before must be taken back in the same
    transaction (`rollout_rollback`).
    """
    if rollout.state is RolloutState.ROLLING_BACK:
        return _gone_back(rollout, facts, now_s)
    targets = tuple(
        judged(rollout, target, facts, now_s) for target in _all_targets(rollout, facts, now_s)
    )
    rollout = msgspec.structs.replace(rollout, targets=targets)
    if rollout.policy is None or rollout.state is RolloutState.PAUSED:
        complete = all(target.state in _OVER for target in targets)
        return _finished(rollout, now_s) if complete and _settled(rollout, facts) else rollout
    failed = [target for target in targets if target.state is TargetState.FAILED]
    if failed and rollout.policy.on_failure is not FailureAction.CONTINUE:
        return _stopped(rollout, rollout.policy, _told(failed, facts), now_s)
    if any(target.state is TargetState.RELEASED for target in targets):
        return msgspec.structs.replace(rollout, rested_since=None)
    return _next_group(rollout, rollout.policy, facts, now_s)


def turned_back(rollout: RolloutRecord, reason: str, now_s: float) -> RolloutRecord:
    """Return a rollout that goes back from now on; what never changed is back already."""

    def turned(target: RolloutTarget) -> RolloutTarget:
        if target.state is TargetState.GONE:
            return target
        if target.released_at is None and target.before is None:
            return msgspec.structs.replace(target, state=TargetState.BACK, at=now_s, error="")
        return released(target, now_s)

    return msgspec.structs.replace(
        rollout,
        state=RolloutState.ROLLING_BACK,
        reason=reason,
        targets=tuple(turned(target) for target in rollout.targets),
        rested_since=None,
    )


def can_go_back(rollout: RolloutRecord) -> bool:
    """Return whether there is something that was good before."""
    return rollout.before_version is not None or rollout.before_spec_number is not None


def newest_s(rollout: RolloutRecord) -> float | None:
    """Return the newest moment that something of a rollout is counted from, as unix seconds."""
    moments = [rollout.rested_since]
    for target in rollout.targets:
        moments += [target.released_at, target.healthy_since]
    return max((moment for moment in moments if moment is not None), default=None)


def due_s(rollout: RolloutRecord, now_s: float) -> float | None:
    """Return when a rollout next stands otherwise though nothing is reported, as unix seconds."""
    policy = rollout.policy
    if rollout.finished_at is not None or policy is None:
        return None
    moments = [] if rollout.rested_since is None else [rollout.rested_since + policy.delay_s]
    for target in rollout.targets:
        if target.state is not TargetState.RELEASED:
            continue
        if target.released_at is not None:
            moments.append(target.released_at + policy.patience_s)
        if target.healthy_since is not None:
            moments.append(target.healthy_since + policy.monitor_s)
    return min((moment for moment in moments if moment > now_s), default=None)


def _next_group(
    rollout: RolloutRecord, policy: UpdatePolicy, facts: Facts, now_s: float
) -> RolloutRecord:
    """Release what is next, now that nothing is open."""
    started = [
        t for t in rollout.targets if t.released_at is not None and t.state is not TargetState.GONE
    ]
    waiting = [t for t in rollout.targets if t.state is TargetState.PENDING]
    down = [t for t in rollout.targets if t.state is TargetState.UNREACHABLE]
    if not rollout.canary_passed:
        lacking = policy.canary - len(started)
        # A canary has to answer: a node that is down is chosen where no other is left.
        canaries = [*waiting, *down][: max(lacking, 0)]
        if canaries:
            return _released(rollout, canaries, now_s)
        if not started:
            return _over(rollout, facts, now_s)
        rollout = msgspec.structs.replace(rollout, canary_passed=True)
    rested_since = now_s if rollout.rested_since is None else rollout.rested_since
    rollout = msgspec.structs.replace(rollout, rested_since=rested_since)
    if not waiting:
        return _over(rollout, facts, now_s)
    if started and now_s - rested_since < policy.delay_s:
        return rollout
    return _released(rollout, waiting[: policy.parallelism or None], now_s)


def _released(
    rollout: RolloutRecord, group: Iterable[RolloutTarget], now_s: float
) -> RolloutRecord:
    chosen = {_task(target) for target in group}
    targets = tuple(
        released(target, now_s) if _task(target) in chosen else target for target in rollout.targets
    )
    return msgspec.structs.replace(rollout, targets=targets, rested_since=None)


def _over(rollout: RolloutRecord, facts: Facts, now_s: float) -> RolloutRecord:
    """End a rollout of which nothing waits, but leave nodes behind only once others are proven."""
    left = [t for t in rollout.targets if t.state is TargetState.UNREACHABLE]
    failed = [t for t in rollout.targets if t.state is TargetState.FAILED]
    done = any(target.state is TargetState.DONE for target in rollout.targets)
    if not _settled(rollout, facts) or (left and not done and not failed):
        return rollout
    said = [_told(failed, facts)] if failed else []
    said += [f"left behind: {_names(left, facts)}"] if left else []
    state = RolloutState.FAILED if failed else RolloutState.FINISHED
    return msgspec.structs.replace(rollout, state=state, reason="; ".join(said), finished_at=now_s)


def _stopped(
    rollout: RolloutRecord, policy: UpdatePolicy, reason: str, now_s: float
) -> RolloutRecord:
    if policy.on_failure is FailureAction.ROLLBACK and can_go_back(rollout):
        return turned_back(rollout, reason, now_s)
    return msgspec.structs.replace(rollout, state=RolloutState.PAUSED, reason=reason)


def _gone_back(rollout: RolloutRecord, facts: Facts, now_s: float) -> RolloutRecord:
    targets = tuple(judged_back(rollout, target, facts, now_s) for target in rollout.targets)
    rollout = msgspec.structs.replace(rollout, targets=targets)
    if any(target.state is TargetState.RELEASED for target in targets):
        return rollout
    failed = [t for t in targets if t.state is TargetState.FAILED]
    left = [t for t in targets if t.state is TargetState.UNREACHABLE]
    reason = rollout.reason
    if failed:
        reason = f"{reason}; the way back failed: {_told(failed, facts)}"
    if left:
        reason = f"{reason}; not back yet: {_names(left, facts)}"
    state = RolloutState.FAILED if failed else RolloutState.ROLLED_BACK
    return msgspec.structs.replace(rollout, state=state, reason=reason, finished_at=now_s)


def _finished(rollout: RolloutRecord, now_s: float) -> RolloutRecord:
    return msgspec.structs.replace(
        rollout, state=RolloutState.FINISHED, reason="", finished_at=now_s
    )


def _all_targets(rollout: RolloutRecord, facts: Facts, now_s: float) -> tuple[RolloutTarget, ...]:
    """Return the targets, with the tasks that it concerns since it began."""
    if rollout.what is RolloutKind.ROTATE and not is_holding(rollout):
        return rollout.targets
    known = {_task(target) for target in rollout.targets}
    at_once = rollout.policy is None or admits_newcomers(rollout)
    added = tuple(
        RolloutTarget(
            task.service_id,
            task.node_id,
            state=TargetState.RELEASED if at_once else TargetState.PENDING,
            at=now_s,
            released_at=now_s if at_once else None,
        )
        for task in sorted(facts.tasks_near(rollout), key=lambda task: task.id)
        if task.id not in known and concerns(rollout, task, facts)
    )
    return (*rollout.targets, *added)


def _settled(rollout: RolloutRecord, facts: Facts) -> bool:
    """Return whether placement adds no more tasks: what is not placed is not rolled out."""
    if rollout.what is RolloutKind.ROTATE or rollout.service_id not in facts.service:
        return True
    return rollout.service_id in facts.settled


def _told(failed: list[RolloutTarget], facts: Facts) -> str:
    said = [f"{_where(target, facts)}: {target.error}" for target in failed[:_NAMED]]
    more = len(failed) - len(said)
    return "; ".join([*said, f"and {more} more"] if more else said)


def _names(targets: list[RolloutTarget], facts: Facts) -> str:
    said = [_where(target, facts) for target in targets[:_NAMED]]
    more = len(targets) - len(said)
    return ", ".join([*said, f"and {more} more"] if more else said)


def _where(target: RolloutTarget, facts: Facts) -> str:
    service = facts.service.get(target.service_id)
    node = facts.names.get(target.node_id, target.node_id)
    return f"{service.name if service is not None else target.service_id} on {node}"


def _task(target: RolloutTarget) -> TaskId:
    return task_id(target.service_id, target.node_id)
