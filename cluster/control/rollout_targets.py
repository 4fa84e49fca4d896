"""How one task of a rollout stands, from what its agent reported. Pure.

    pending | unreachable --release--> released --in place and healthy--> done --unhealthy--> failed
                                       released --error, unhealthy, out of patience--> failed
    any --the task is removed, or not concerned any more--> gone

On the way back, `released` leads to `back` instead of `done`. Every state is computed anew from the
facts, so what recovers is taken as recovered; a task that was done once is not asked again whether
its files are in place, only whether it works.
"""

from typing import Final

import msgspec

from cluster.control.rollouts import Facts, concerns, desired_version
from cluster.protocol.errors import InvariantViolation
from cluster.protocol.ids import SecretId, TaskId, VersionNumber
from cluster.store.records import (
    RolloutKind,
    RolloutRecord,
    RolloutTarget,
    ServiceRecord,
    TargetState,
    TaskRecord,
    TaskStatusRecord,
    UpdatePolicy,
    task_id,
)

NO_FILES: Final = "its files are not in place"
NO_HEALTH: Final = "its health check gave no answer"


def judged(
    rollout: RolloutRecord, target: RolloutTarget, facts: Facts, now_s: float
) -> RolloutTarget:
    """Return a target as it stands now; `at` moves with its state alone."""
    task = facts.running.get(task_id(target.service_id, target.node_id))
    if task is None or not concerns(rollout, task, facts):
        return _moved(target, TargetState.GONE, now_s)
    if target.released_at is None:
        ready = target.node_id in facts.ready
        return _moved(target, TargetState.PENDING if ready else TargetState.UNREACHABLE, now_s)
    if rollout.policy is None:
        return _files_judged(rollout, target, task, facts, now_s)
    return _proven(rollout, target, task, facts, now_s)


def judged_back(
    rollout: RolloutRecord, target: RolloutTarget, facts: Facts, now_s: float
) -> RolloutTarget:
    """Return a target of a rollout that goes back as it stands now."""
    if target.state in {TargetState.BACK, TargetState.GONE}:
        return target
    task = facts.running.get(task_id(target.service_id, target.node_id))
    if task is None or not concerns(rollout, task, facts):
        return _moved(target, TargetState.GONE, now_s)
    status = facts.status.get(TaskId(task.id))
    late = _is_late(rollout, target, now_s)
    if status is None or not _is_back(rollout, task, status, facts):
        if not late:
            return _moved(target, TargetState.RELEASED, now_s)
        ready = target.node_id in facts.ready
        error = status.error if status is not None and status.error else NO_FILES
        return _moved(
            target, TargetState.FAILED if ready else TargetState.UNREACHABLE, now_s, error
        )
    match _health(task, status, facts):
        case True:
            return _moved(target, TargetState.BACK, now_s)
        case False:
            return _moved(target, TargetState.FAILED, now_s, _complaint(status))
        case None:
            state = TargetState.FAILED if late else TargetState.RELEASED
            return _moved(target, state, now_s, NO_HEALTH if late else "")


def released(target: RolloutTarget, now_s: float) -> RolloutTarget:
    """Return a target that is given the change from now on."""
    return msgspec.structs.replace(
        target,
        state=TargetState.RELEASED,
        at=now_s,
        error="",
        released_at=now_s,
        healthy_since=None,
    )


def _files_judged(
    rollout: RolloutRecord, target: RolloutTarget, task: TaskRecord, facts: Facts, now_s: float
) -> RolloutTarget:
    status = facts.status.get(TaskId(task.id))
    if status is None:
        return _moved(target, TargetState.RELEASED, now_s)
    if _in_place(rollout, task, status, facts):
        return _moved(target, TargetState.DONE, now_s)
    if status.error:
        return _moved(target, TargetState.FAILED, now_s, status.error)
    return _moved(target, TargetState.RELEASED, now_s)


def _proven(
    rollout: RolloutRecord, target: RolloutTarget, task: TaskRecord, facts: Facts, now_s: float
) -> RolloutTarget:
    status = facts.status.get(TaskId(task.id))
    in_place = status is not None and _in_place(rollout, task, status, facts)
    if status is not None and in_place and _health(task, status, facts) is False:
        return _moved(target, TargetState.FAILED, now_s, _complaint(status))
    if target.state is TargetState.DONE:
        return target
    late = _is_late(rollout, target, now_s)
    if status is None or not in_place:
        return _unanswered(target, status, now_s, late=late)
    if _health(task, status, facts) is None:
        waiting = msgspec.structs.replace(target, healthy_since=None)
        state = TargetState.FAILED if late else TargetState.RELEASED
        return _moved(waiting, state, now_s, NO_HEALTH if late else "")
    since = target.healthy_since if target.healthy_since is not None else now_s
    watched = msgspec.structs.replace(target, healthy_since=since)
    over = now_s - since >= _policy(rollout).monitor_s
    return _moved(watched, TargetState.DONE if over else TargetState.RELEASED, now_s)


def _unanswered(
    target: RolloutTarget, status: TaskStatusRecord | None, now_s: float, *, late: bool
) -> RolloutTarget:
    """Judge a task whose files are not in place."""
    waiting = msgspec.structs.replace(target, healthy_since=None)
    released_at = target.released_at or 0.0
    # An older error is of what the task was given before.
    if status is not None and status.error and (late or status.at >= released_at):
        return _moved(waiting, TargetState.FAILED, now_s, status.error)
    state = TargetState.FAILED if late else TargetState.RELEASED
    return _moved(waiting, state, now_s, NO_FILES if late else "")


def _is_late(rollout: RolloutRecord, target: RolloutTarget, now_s: float) -> bool:
    return now_s - (target.released_at or now_s) >= _policy(rollout).patience_s


def _policy(rollout: RolloutRecord) -> UpdatePolicy:
    if rollout.policy is None:
        raise InvariantViolation("a rollout without a policy is judged by its files alone")
    return rollout.policy


def _health(task: TaskRecord, status: TaskStatusRecord, facts: Facts) -> bool | None:
    """Return what the service's check says of what is in place; without a check all is well."""
    spec = facts.spec_of(task)
    return True if spec is None or spec.health is None else status.healthy


def _complaint(status: TaskStatusRecord) -> str:
    return f"unhealthy: {status.health_detail}" if status.health_detail else "unhealthy"


def _in_place(
    rollout: RolloutRecord, task: TaskRecord, status: TaskStatusRecord, facts: Facts
) -> bool:
    if status.error:
        return False
    if rollout.what is RolloutKind.ROTATE:
        return _holds(status, rollout.secret_id, rollout.version)
    return _holds_spec(task, status, facts, rollout.spec_number or 0)


def _is_back(
    rollout: RolloutRecord, task: TaskRecord, status: TaskStatusRecord, facts: Facts
) -> bool:
    if status.error:
        return False
    if rollout.what is RolloutKind.ROTATE:
        return _holds(status, rollout.secret_id, rollout.before_version)
    return _holds_spec(task, status, facts, rollout.back_spec_number or 0)


def _holds(
    status: TaskStatusRecord, secret_id: SecretId | None, version: VersionNumber | None
) -> bool:
    return any((m.secret_id, m.version) == (secret_id, version) for m in status.mounted)


def _holds_spec(task: TaskRecord, status: TaskStatusRecord, facts: Facts, number: int) -> bool:
    service = facts.service.get(task.service_id)
    mounted: set[tuple[SecretId, VersionNumber | None]] = {
        (m.secret_id, m.version) for m in status.mounted
    }
    return (
        service is not None
        and status.spec_number >= number
        and _wanted(service, task, facts) <= mounted
    )


def _wanted(
    service: ServiceRecord, task: TaskRecord, facts: Facts
) -> set[tuple[SecretId, VersionNumber | None]]:
    return {
        (
            reference.secret_id,
            desired_version(
                reference,
                facts.secret.get(reference.secret_id),
                facts.holds.version(task, reference.secret_id),
            ),
        )
        for reference in service.spec.references
    }


def _moved(
    target: RolloutTarget, state: TargetState, now_s: float, error: str = ""
) -> RolloutTarget:
    if (state, error) == (target.state, target.error):
        return target
    return msgspec.structs.replace(target, state=state, at=now_s, error=error)
