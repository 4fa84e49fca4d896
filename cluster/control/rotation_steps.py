"""The steps of a rotation that the cluster carries out by itself. Pure.

    generate --> prepare --> push --> confirm --> retire --> done
                    |          |         |           |
                    |          |         `> revert   `> done, saying what stays valid
                    `----------`----> rollback <--'  --> failed

The third party's hook is called in prepare, confirm, retire and rollback; a rotation without a hook
skips these. Before push the old version is primary and nothing else was ever issued; a rotation
that fails later makes it primary again. Each call is recorded before it is made, so a holder of the
duty that dies in between leaves a record by which the next one calls again, with the same operation
id. Source: docs/explanation/scheduled-rotation.md.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, assert_never

import msgspec

from cluster.hook.contract import HookAction
from cluster.protocol.ids import VersionNumber
from cluster.store.records import (
    RotationRecord,
    RotationStep,
    SecretRecord,
    SecretVersion,
    VersionState,
)

ATTEMPTS: Final = 5
"""Calls of a hook in one step, before the rotation is taken back. Retiring is tried without end."""
FIRST_BACK_OFF_S: Final = 2.0
LONGEST_BACK_OFF_S: Final = 600.0
_MOST_DOUBLINGS: Final = 20

_BY_HAND: Final = "the secret was rotated or rolled back by hand meanwhile"
_REPLACED: Final = "the new version is not primary any more: it was rolled back, or replaced"
_STAYS: Final = "the third party may still accept the new credential"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a step is decided from."""

    secret: SecretRecord | None
    moving: bool
    """Whether any rollout of the secret is unfinished."""
    reached: bool
    """Whether the new version is in place on every node that is up."""
    pinned: Collection[int]
    """Versions that specs name."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something changes, or until `until`."""

    why: str
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Generate:
    """Make the value and store it."""


@dataclass(frozen=True, slots=True)
class Push:
    """Make the new version primary and start its rollout."""


@dataclass(frozen=True, slots=True)
class Revert:
    """Make the version before primary again and start its rollout."""


@dataclass(frozen=True, slots=True)
class Call:
    """Record the attempt, then call the hook."""

    action: HookAction


@dataclass(frozen=True, slots=True)
class Become:
    """Write this; `drop`: the new version's value, which was never issued, goes."""

    record: RotationRecord
    drop: bool = False


_NOT_REACHED: Final = Wait("the new version is not in place on every node that is up")

Move = Wait | Generate | Push | Revert | Call | Become


def next_move(rotation: RotationRecord, facts: Facts, now_s: float) -> Move:
    """Return what an unfinished rotation does now."""
    secret = facts.secret
    if secret is None:
        return Become(_failed(rotation, "the secret was removed", now_s))
    match rotation.step:
        case RotationStep.GENERATE:
            return Generate() if _stands(rotation, secret) else _end_by_hand(rotation, now_s)
        case RotationStep.PREPARE:
            return _prepare(rotation, secret, now_s)
        case RotationStep.PUSH:
            return Push() if _stands(rotation, secret) else _take_back(rotation, _BY_HAND)
        case RotationStep.CONFIRM:
            return _confirm(rotation, secret, facts, now_s)
        case RotationStep.RETIRE:
            return _retire(rotation, secret, facts, now_s)
        case RotationStep.REVERT:
            return _revert(rotation, secret)
        case RotationStep.ROLLBACK:
            return _rollback(rotation, secret, facts, now_s)
        case RotationStep.DONE | RotationStep.FAILED:
            return Wait("it is over")
    assert_never(rotation.step)


def attempted(rotation: RotationRecord, now_s: float) -> RotationRecord:
    """Return the rotation with one more attempt begun: written before the hook is called."""
    attempts = rotation.attempts + 1
    return msgspec.structs.replace(
        rotation, attempts=attempts, next_try_at=now_s + _back_off_s(attempts)
    )


def attempted_at_s(rotation: RotationRecord) -> float | None:
    """Return when the last attempt of the present step began; None: there was none."""
    if not rotation.attempts:
        return None
    return rotation.next_try_at - _back_off_s(rotation.attempts)


def _back_off_s(attempts: int) -> float:
    # Retiring is tried without end: a power of its own accord would leave the range of a float.
    doublings = min(attempts - 1, _MOST_DOUBLINGS)
    return min(FIRST_BACK_OFF_S * 2.0**doublings, LONGEST_BACK_OFF_S)


def succeeded(rotation: RotationRecord, now_s: float) -> Become:
    """Return what follows when the hook carried the present step out."""
    match rotation.step:
        case RotationStep.PREPARE:
            return Become(_at(rotation, RotationStep.PUSH))
        case RotationStep.CONFIRM:
            return Become(_at(rotation, RotationStep.RETIRE))
        case RotationStep.RETIRE:
            return Become(_over(rotation, RotationStep.DONE, "", now_s))
        case _:
            return _dropped(rotation, rotation.error, now_s)


def refused(rotation: RotationRecord, why: str, now_s: float) -> Become:
    """Return what follows when the hook failed: another attempt, or the way back."""
    if rotation.step is RotationStep.ROLLBACK:
        if rotation.attempts < ATTEMPTS:
            return Become(rotation)
        stays = "the third party may still accept the new credential"
        return _dropped(
            rotation, f"{rotation.error}; taking it back failed too ({why}); {stays}", now_s
        )
    noted = msgspec.structs.replace(rotation, error=f"{rotation.step.value}: {why}")
    if rotation.attempts < ATTEMPTS or rotation.step is RotationStep.RETIRE:
        return Become(noted)
    if rotation.step is RotationStep.CONFIRM:
        return Become(_at(noted, RotationStep.REVERT, noted.error))
    return _take_back(noted, noted.error)


def given_up(rotation: RotationRecord, why: str, now_s: float) -> Become:
    """Return what follows when an operator, or the next rotation, ends this one."""
    match rotation.step:
        case RotationStep.GENERATE:
            return Become(_failed(rotation, why, now_s))
        case RotationStep.PREPARE | RotationStep.PUSH:
            return _take_back(rotation, why)
        case RotationStep.CONFIRM:
            return Become(_at(rotation, RotationStep.REVERT, why))
        case RotationStep.RETIRE:
            stays = f"version {rotation.previous} may still be accepted by the third party"
            return Become(_failed(rotation, f"{why}; {stays}", now_s))
        case RotationStep.ROLLBACK:
            return _dropped(rotation, f"{rotation.error or why}; {_STAYS}", now_s)
        case RotationStep.REVERT | RotationStep.DONE | RotationStep.FAILED:
            return Become(rotation)
    assert_never(rotation.step)


def pushed(secret: SecretRecord, rotation: RotationRecord, now_s: float) -> SecretRecord:
    """Return the secret with the rotation's version among its versions, active and not primary."""
    if rotation.version is None:
        return secret
    version = SecretVersion(
        rotation.version, VersionState.ACTIVE, rotation.size, now_s, rotation.started_by
    )
    return msgspec.structs.replace(secret, versions=(*secret.versions, version))


def _stands(rotation: RotationRecord, secret: SecretRecord) -> bool:
    return secret.primary.number == rotation.previous


def _prepare(rotation: RotationRecord, secret: SecretRecord, now_s: float) -> Move:
    if not _stands(rotation, secret):
        return _take_back(rotation, _BY_HAND)
    return _call(rotation, HookAction.PREPARE, now_s)


def _confirm(rotation: RotationRecord, secret: SecretRecord, facts: Facts, now_s: float) -> Move:
    if secret.primary.number != rotation.version:
        return Become(_at(rotation, RotationStep.ROLLBACK, _REPLACED))
    if not facts.reached:
        return _NOT_REACHED
    if rotation.hook:
        return _call(rotation, HookAction.CONFIRM, now_s)
    return Become(_over(rotation, RotationStep.DONE, "", now_s))


def _retire(rotation: RotationRecord, secret: SecretRecord, facts: Facts, now_s: float) -> Move:
    if secret.primary.number == rotation.previous:
        # The third party may have dropped the old credential already: only a person can tell.
        why = "the secret was rolled back after the third party confirmed the new credential"
        return Become(_failed(rotation, f"{why}; check which of the two it accepts", now_s))
    previous = _version(secret, rotation.previous)
    if previous is None or previous.state is VersionState.RETIRED:
        return _call(rotation, HookAction.RETIRE, now_s)
    if rotation.previous in facts.pinned:
        why = f"version {rotation.previous} is pinned by a service: its credential was not retired"
        return Become(_over(rotation, RotationStep.DONE, why, now_s))
    if previous.retire_at is not None and now_s < previous.retire_at:
        return Wait(f"version {rotation.previous} is still active", previous.retire_at)
    # It may be active for a node that is down: that one holds nothing up, here as in confirming.
    return _call(rotation, HookAction.RETIRE, now_s) if facts.reached else _NOT_REACHED


def _revert(rotation: RotationRecord, secret: SecretRecord) -> Move:
    previous = _version(secret, rotation.previous)
    if secret.primary.number != rotation.version or previous is None or previous.destroyed:
        return Become(_at(rotation, RotationStep.ROLLBACK, rotation.error))
    return Revert()


def _rollback(rotation: RotationRecord, secret: SecretRecord, facts: Facts, now_s: float) -> Move:
    if not rotation.hook:
        return _dropped(rotation, rotation.error, now_s)
    if rotation.rollout is not None and rotation.version is not None:
        version = _version(secret, rotation.version)
        if version is not None and version.state is VersionState.PRIMARY:
            why = f"version {version.number} was made primary by hand; check the third party"
            return Become(_failed(rotation, f"{rotation.error}; {why}", now_s))
        if facts.moving or (version is not None and version.state is VersionState.ACTIVE):
            return Wait(f"version {rotation.version} is still in use")
    return _call(rotation, HookAction.ROLLBACK, now_s)


def _call(rotation: RotationRecord, action: HookAction, now_s: float) -> Move:
    if now_s < rotation.next_try_at:
        return Wait("the next attempt is not due", rotation.next_try_at)
    return Call(action)


def _take_back(rotation: RotationRecord, why: str) -> Become:
    return Become(_at(rotation, RotationStep.ROLLBACK, why))


def _end_by_hand(rotation: RotationRecord, now_s: float) -> Become:
    return Become(_failed(rotation, _BY_HAND, now_s))


def _at(rotation: RotationRecord, step: RotationStep, error: str = "") -> RotationRecord:
    return msgspec.structs.replace(rotation, step=step, attempts=0, next_try_at=0.0, error=error)


def _over(rotation: RotationRecord, step: RotationStep, error: str, now_s: float) -> RotationRecord:
    return msgspec.structs.replace(_at(rotation, step, error), finished_at=now_s)


def _failed(rotation: RotationRecord, why: str, now_s: float) -> RotationRecord:
    return _over(rotation, RotationStep.FAILED, why, now_s)


def _dropped(rotation: RotationRecord, why: str, now_s: float) -> Become:
    """Return the end of a rotation that was taken back; what was never pushed leaves no value."""
    return Become(_failed(rotation, why, now_s), drop=rotation.rollout is None)


def _version(secret: SecretRecord, number: VersionNumber) -> SecretVersion | None:
    return next((v for v in secret.versions if v.number == number), None)
