"""The life of secret versions: which is primary, which may still be issued, which is gone.

Pure. Exactly one version is primary. Its predecessor stays active until the next rotation, and so
does every version that a current or previous spec pins; all others are retired, and a retired
version has no value any more. Numbers are never reused.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from cluster.protocol.ids import SecretId, VersionNumber
from cluster.store.records import (
    SecretRecord,
    SecretVersion,
    ServiceRecord,
    ServiceSpec,
    VersionState,
)

RETIRED_KEPT: Final = 50
"""Retired versions whose metadata stays in the record."""


@dataclass(frozen=True, slots=True)
class Rotated:
    """A secret after a rotation, and the versions whose values go."""

    record: SecretRecord
    retired: tuple[VersionNumber, ...]


def first_version(size: int, now_s: float, created_by: str) -> SecretVersion:
    """Return version 1 as primary."""
    return SecretVersion(VersionNumber(1), VersionState.PRIMARY, size, now_s, created_by)


def rotated(
    secret: SecretRecord, size: int, now_s: float, created_by: str, pinned: Collection[int]
) -> Rotated:
    """Return `secret` with a new primary version; `pinned` are the numbers that specs name."""
    number = VersionNumber(secret.next_number)
    newest = SecretVersion(number, VersionState.PRIMARY, size, now_s, created_by)
    before: list[SecretVersion] = []
    retired: list[VersionNumber] = []
    for version in secret.versions:
        state = _next_state(version, pinned)
        if state is VersionState.RETIRED and version.state is not VersionState.RETIRED:
            retired.append(version.number)
        before.append(msgspec.structs.replace(version, state=state))
    record = msgspec.structs.replace(
        secret,
        versions=(*_trimmed(before), newest),
        next_number=secret.next_number + 1,
        updated_at=now_s,
    )
    return Rotated(record, tuple(retired))


def _next_state(version: SecretVersion, pinned: Collection[int]) -> VersionState:
    if version.state is VersionState.RETIRED:
        return VersionState.RETIRED
    if version.state is VersionState.PRIMARY or version.number in pinned:
        return VersionState.ACTIVE
    return VersionState.RETIRED


def _trimmed(versions: list[SecretVersion]) -> list[SecretVersion]:
    retired = [v.number for v in versions if v.state is VersionState.RETIRED]
    forgotten = set(retired[:-RETIRED_KEPT])
    return [version for version in versions if version.number not in forgotten]


def specs_of(service: ServiceRecord) -> Iterable[ServiceSpec]:
    """Return the specs a service may run by: the current one and the one a rollback restores."""
    yield service.spec
    if service.previous_spec is not None:
        yield service.previous_spec


def pinned_versions(secret_id: SecretId, services: Iterable[ServiceRecord]) -> frozenset[int]:
    """Return the version numbers of a secret that some current or previous spec names."""
    return frozenset(
        reference.version
        for service in services
        for spec in specs_of(service)
        for reference in spec.references
        if reference.secret_id == secret_id and reference.version is not None
    )


def follows_primary(secret_id: SecretId, spec: ServiceSpec) -> bool:
    """Return whether a rotation of the secret changes a file of this spec."""
    return any(r.secret_id == secret_id and r.version is None for r in spec.references)
