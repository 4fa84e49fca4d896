"""How schedules and rotations look in answers: never a value, never what a hook printed. Pure."""

from cluster.control.moments import moment
from cluster.control.requests import JSON
from cluster.control.rotation_records import latest_rotation
from cluster.protocol.ids import SecretId
from cluster.store.records import RotationRecord, RotationSchedule, RotationStep, SecretRecord
from cluster.store.view import View


def shown_schedule(schedule: RotationSchedule | None) -> dict[str, JSON]:
    """Return what an operator sees of a schedule."""
    if schedule is None:
        return {"schedule": None}
    return {
        "schedule": {
            "every_s": schedule.every_s,
            "generator": schedule.generator,
            "length": schedule.length,
            "hook": schedule.hook,
            "next_at": moment(schedule.next_at),
        }
    }


def shown_rotation(view: View, secret: SecretRecord) -> dict[str, JSON]:
    """Return a secret's schedule, and its rotation that is under way or was the last."""
    rotation = latest_rotation(view, SecretId(secret.id))
    return {**shown_schedule(secret.schedule), "rotation": _shown(rotation)}


def _shown(rotation: RotationRecord | None) -> dict[str, JSON] | None:
    if rotation is None:
        return None
    return {
        "operation": rotation.id,
        "step": rotation.step.value,
        "done": rotation.finished_at is not None,
        "settled": rotation.finished_at is not None or rotation.step is RotationStep.RETIRE,
        "version": rotation.version,
        "previous": rotation.previous,
        "hook": rotation.hook,
        "attempts": rotation.attempts,
        "next_try_at": moment(rotation.next_try_at) if rotation.next_try_at else None,
        "failing": is_failing(rotation),
        "error": rotation.error,
        "rollout": rotation.rollout,
        "started_at": moment(rotation.started_at),
        "started_by": rotation.started_by,
        "finished_at": moment(rotation.finished_at),
    }


def failing_rotations(view: View) -> int:
    """Return how many secrets' newest rotation failed, or meets errors now."""
    newest = (latest_rotation(view, SecretId(secret_id)) for secret_id in view.secrets)
    return sum(rotation is not None and is_failing(rotation) for rotation in newest)


def is_failing(rotation: RotationRecord) -> bool:
    """Return whether somebody should look: it failed, or a hook refused and is tried again."""
    return bool(rotation.error) and rotation.step is not RotationStep.DONE
