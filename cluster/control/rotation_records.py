"""Finding and making the records of rotations. Pure."""

from cluster.control.generators import Recipe
from cluster.protocol.errors import InvalidRequest
from cluster.protocol.ids import SecretId
from cluster.store.records import RotationRecord, RotationStep, SecretRecord
from cluster.store.steps import Remove
from cluster.store.view import Stored, View

_NEEDING_BOTH = frozenset({RotationStep.CONFIRM, RotationStep.REVERT})


def rotations_of(view: View, secret_id: SecretId) -> list[Stored[RotationRecord]]:
    """Return the rotations of a secret, the newest last."""
    found = view.rotations_of(secret_id)
    return sorted(found, key=lambda stored: (stored.record.started_at, stored.record.id))


def open_rotation(view: View, secret_id: SecretId) -> Stored[RotationRecord] | None:
    """Return the rotation of a secret that is under way; there is one at most."""
    running = (s for s in rotations_of(view, secret_id) if s.record.finished_at is None)
    return next(running, None)


def latest_rotation(view: View, secret_id: SecretId) -> RotationRecord | None:
    """Return the rotation that is under way, or else the one that ended last."""
    running = open_rotation(view, secret_id)
    if running is not None:
        return running.record
    found = rotations_of(view, secret_id)
    return found[-1].record if found else None


def needed_by_rotations(view: View, secret_id: SecretId) -> frozenset[int]:
    """Return the versions that a rotation may go back to, or tells its hook of."""
    running = open_rotation(view, secret_id)
    if running is None or running.record.step not in _NEEDING_BOTH:
        return frozenset()
    numbers = {running.record.previous, running.record.version}
    return frozenset(int(number) for number in numbers if number is not None)


def new_rotation(
    secret: SecretRecord,
    operation: str,
    now_s: float,
    by: str,
    made: Recipe | None = None,
    *,
    request_id: str = "",
) -> RotationRecord:
    """Return a rotation of a secret, by `made` or by its schedule. Raises InvalidRequest.

    `request_id`: empty where nobody asked; the operation's own then stands for it.

    A hook is told in either case: a value it does not know of would be refused at the third party.
    """
    schedule = secret.schedule
    if made is None and schedule is None:
        raise InvalidRequest(
            f"secret {secret.name!r} has no schedule; say how its value is made: "
            "--generate password, hex, rsa or ed25519"
        )
    return RotationRecord(
        id=operation,
        secret_id=SecretId(secret.id),
        name=secret.name,
        generator=made.generator.value if made else schedule.generator if schedule else "",
        length=made.length if made else schedule.length if schedule else 0,
        hook=schedule.hook if schedule is not None else "",
        previous=secret.primary.number,
        started_at=now_s,
        started_by=by,
        request_id=request_id or operation,
    )


def candidate_removal(view: View, rotation: RotationRecord) -> list[Remove]:
    """Return the step that removes a value which was never made a version, if it is there."""
    if rotation.version is None or rotation.rollout is not None:
        return []
    found = view.secret_values.version(rotation.secret_id, rotation.version)
    return [Remove(found)] if found is not None else []


def rotation_removals(view: View, secret_id: SecretId) -> list[Remove]:
    """Return the steps that forget every rotation of a secret, with the values only they know."""
    found = rotations_of(view, secret_id)
    values = [step for stored in found for step in candidate_removal(view, stored.record)]
    return [*(Remove(stored) for stored in found), *values]
