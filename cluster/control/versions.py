"""The life of secret versions: which is primary, which may still be issued, which is gone.

Pure. Numbers are never used again.

    primary --rotate, roll back--> active --due, and nothing needs it--> retired --beyond keep-->
    its value is destroyed; an active or a retired version with its value --roll back--> primary

Exactly one version is primary. An active version is due at its `retire_at`, or, without one, as
soon as nothing needs it. A retired version is never issued. The values of the `keep` versions that
were primary last stay sealed in the store, for a rollback. Source: docs/explanation/versions.md.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from cluster.protocol.errors import Conflict, VersionNotFound
from cluster.protocol.ids import SecretId, VersionNumber
from cluster.store.records import (
    SecretRecord,
    SecretVersion,
    ServiceRecord,
    ServiceSpec,
    VersionState,
)

MAX_KEEP: Final = 50
DESTROYED_KEPT: Final = 50
"""Versions without a value whose metadata stays in the record."""
_WITH_VALUE: Final = frozenset({VersionState.ACTIVE, VersionState.RETIRED})


@dataclass(frozen=True, slots=True)
class Settled:
    """A secret after what was due was retired, and what that came to."""

    record: SecretRecord
    retired: tuple[VersionNumber, ...] = ()
    destroyed: tuple[VersionNumber, ...] = ()
    """Their values are to be removed."""


def first_version(
    size: int,
    now_s: float,
    created_by: str,
    expires_at: float | None = None,
    *,
    request_id: str = "",
) -> SecretVersion:
    """Return version 1 as primary."""
    return SecretVersion(
        VersionNumber(1),
        VersionState.PRIMARY,
        size,
        now_s,
        created_by,
        expires_at=expires_at,
        request_id=request_id,
    )


def rotated(
    secret: SecretRecord,
    size: int,
    now_s: float,
    created_by: str,
    *,
    overlap_s: float | None = None,
    expires_at: float | None = None,
    request_id: str = "",
) -> SecretRecord:
    """Return `secret` with a new primary version; its value is the caller's to store.

    `overlap_s`: for how long the version before stays active; None: as the secret says.
    """
    newest = SecretVersion(
        VersionNumber(secret.next_number),
        VersionState.ACTIVE,
        size,
        now_s,
        created_by,
        expires_at=expires_at,
    )
    grown = msgspec.structs.replace(
        secret, versions=(*secret.versions, newest), next_number=secret.next_number + 1
    )
    return made_primary(grown, newest.number, now_s, overlap_s=overlap_s, request_id=request_id)


def made_primary(
    secret: SecretRecord,
    number: int,
    now_s: float,
    *,
    overlap_s: float | None = None,
    taken_back: bool = False,
    request_id: str = "",
) -> SecretRecord:
    """Return `secret` with an existing version as primary; the primary before stays active for now.

    `overlap_s` as in `rotated`; `taken_back`: the version that is left did not work; `request_id`:
    who asked for it, which nodes log when they get it.
    """
    left = secret.primary
    turn = 1 + max(version.left_turn for version in secret.versions)
    retire_at = _retire_at(secret, left, now_s, overlap_s)

    def after(version: SecretVersion) -> SecretVersion:
        if version.number == number:
            return msgspec.structs.replace(
                version,
                state=VersionState.PRIMARY,
                retire_at=None,
                left_turn=0,
                taken_back=False,
                request_id=request_id,
            )
        if version.number == left.number:
            return msgspec.structs.replace(
                version,
                state=VersionState.ACTIVE,
                retire_at=retire_at,
                left_turn=turn,
                taken_back=taken_back,
            )
        return version

    versions = tuple(after(version) for version in secret.versions)
    return msgspec.structs.replace(secret, versions=versions, updated_at=now_s)


def rollback_target(secret: SecretRecord, number: int | None = None) -> SecretVersion:
    """Return the version a rollback makes primary: `number`, or the one that was primary last and
    was not taken back.

    Raises VersionNotFound for a number that never was, and Conflict for one that cannot be primary.
    """
    if number is None:
        return _last_primary(secret)
    version = next((v for v in secret.versions if v.number == number), None)
    if version is None:
        if 0 < number < secret.next_number:
            raise Conflict(_destroyed(secret, number))
        raise VersionNotFound(
            f"secret {secret.name!r} has no version {number}; "
            f"see `strongroom secret versions {secret.name}`"
        )
    if version.state is VersionState.PRIMARY:
        raise Conflict(f"version {number} of secret {secret.name!r} is already primary")
    if version.destroyed:
        raise Conflict(_destroyed(secret, number))
    if version.state not in _WITH_VALUE:
        raise Conflict(
            f"version {number} of secret {secret.name!r} is still being prepared; "
            "wait until its rotation is over"
        )
    return version


def active_count(secret: SecretRecord) -> int:
    """Return how many versions are active beside the primary."""
    return sum(version.state is VersionState.ACTIVE for version in secret.versions)


def last_left(secret: SecretRecord) -> SecretVersion | None:
    """Return the version that was primary last before this one, or None where none was."""
    left = (version for version in secret.versions if version.left_turn)
    return max(left, key=lambda version: version.left_turn, default=None)


def may_settle(secret: SecretRecord) -> bool:
    """Return whether `settled` could ever come to something, now or at a later moment: cheap."""
    # Asked of every secret: an enumeration's members are slow to look up.
    active, retired = VersionState.ACTIVE, VersionState.RETIRED
    kept = 0
    for version in secret.versions:
        if version.state is active:
            return True
        if version.state is retired and not version.destroyed:
            kept += 1
    return kept > secret.keep


def settled(
    secret: SecretRecord, now_s: float, needed: Collection[int], keep: int | None = None
) -> Settled:
    """Return `secret` with every version retired that is due, and the values beyond `keep` gone.

    `needed`: numbers that a spec or a rollout needs: these stay as they are. `keep`: None: the
    secret's own. Returns the very same record when nothing is due.
    """
    retired = {
        version.number
        for version in secret.versions
        if version.state is VersionState.ACTIVE
        and version.number not in needed
        and (version.retire_at is None or version.retire_at <= now_s)
    }
    before = [
        msgspec.structs.replace(version, state=VersionState.RETIRED, request_id="")
        if version.number in retired
        else version
        for version in secret.versions
    ]
    kept = secret.keep if keep is None else keep
    destroyed = {number for number in _beyond(before, kept) if number not in needed}
    if not retired and not destroyed:
        return Settled(secret)
    after = [
        msgspec.structs.replace(version, destroyed=True) if version.number in destroyed else version
        for version in before
    ]
    record = msgspec.structs.replace(secret, versions=_trimmed(after))
    return Settled(record, tuple(sorted(retired)), tuple(sorted(destroyed)))


def next_due(secret: SecretRecord, now_s: float) -> float | None:
    """Return when the next active version is due, or None where none waits for a moment to come."""
    moments = (
        version.retire_at
        for version in secret.versions
        if version.state is VersionState.ACTIVE and version.retire_at is not None
    )
    return min((moment for moment in moments if moment > now_s), default=None)


def specs_of(service: ServiceRecord) -> Iterable[ServiceSpec]:
    """Return the specs a service may run by: the current one and the one a rollback restores."""
    yield service.spec
    if service.previous_spec is not None:
        yield service.previous_spec


def pinned_versions(secret_id: SecretId, services: Iterable[ServiceRecord]) -> frozenset[int]:
    """Return the version numbers of a secret that some current or previous spec names."""
    return pinned_by(secret_id, (spec for service in services for spec in specs_of(service)))


def pinned_by(secret_id: str, specs: Iterable[ServiceSpec]) -> frozenset[int]:
    """Return the version numbers of a secret that some of `specs` name."""
    return frozenset(
        reference.version
        for spec in specs
        for reference in spec.references
        if reference.secret_id == secret_id and reference.version is not None
    )


def needed_by_specs(secret: SecretRecord, services: Iterable[ServiceRecord]) -> frozenset[int]:
    """Return the versions that specs need: pinned ones, and the one before the primary where a
    service asked for it and nobody said for how long."""
    secret_id = SecretId(secret.id)
    known = tuple(services)
    pinned = pinned_versions(secret_id, known)
    before = secret.before_primary
    if before is None or before.retire_at is not None:
        return pinned
    asked = any(
        reference.previous and reference.secret_id == secret_id
        for service in known
        for reference in service.spec.references
    )
    return pinned | {before.number} if asked else pinned


def follows_primary(secret_id: SecretId, spec: ServiceSpec) -> bool:
    """Return whether a rotation of the secret changes a file of this spec."""
    return any(r.secret_id == secret_id and r.version is None for r in spec.references)


def _retire_at(
    secret: SecretRecord, left: SecretVersion, now_s: float, overlap_s: float | None
) -> float | None:
    if overlap_s is not None:
        return now_s + overlap_s
    if not secret.overlap_s:
        return None
    # The secret's own overlap gives way to the credential's end: nobody chose it for this one.
    end = now_s + secret.overlap_s
    return end if left.expires_at is None else max(now_s, min(end, left.expires_at))


def _last_primary(secret: SecretRecord) -> SecretVersion:
    left = (one for one in secret.versions if one.left_turn and not one.taken_back)
    last = max(left, key=lambda version: version.left_turn, default=None)
    if last is None:
        raise Conflict(f"secret {secret.name!r} has no version before this one; rotate it instead")
    if last.destroyed:
        raise Conflict(_destroyed(secret, last.number))
    return last


def _destroyed(secret: SecretRecord, number: int) -> str:
    return (
        f"the value of version {number} of secret {secret.name!r} is destroyed; rotate to a new "
        f"value, or roll back to a version that `strongroom secret versions {secret.name}` shows "
        "as kept"
    )


def _beyond(versions: Iterable[SecretVersion], keep: int) -> set[VersionNumber]:
    """Return the retired versions whose values are beyond the `keep` that were primary last.

    What was taken back goes first: it must not push out what a rollback would want.
    """
    retired = [v for v in versions if v.state is VersionState.RETIRED and not v.destroyed]
    retired.sort(key=lambda one: (not one.taken_back, one.left_turn, one.number), reverse=True)
    return {version.number for version in retired[keep:]}


def _trimmed(versions: list[SecretVersion]) -> tuple[SecretVersion, ...]:
    destroyed = [version for version in versions if version.destroyed]
    destroyed.sort(key=lambda version: (version.left_turn, version.number))
    forgotten = {version.number for version in destroyed[:-DESTROYED_KEPT]}
    return tuple(version for version in versions if version.number not in forgotten)
