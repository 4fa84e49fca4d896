"""Credentials that end by themselves: which versions expire soon, or did. Pure.

A warning only: what has expired is issued on, because the file on a node is better stale than gone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from cluster.control.moments import moment
from cluster.control.requests import JSON
from cluster.store.records import SecretRecord, SecretVersion, VersionState

WARNING_S: Final = 7 * 86_400.0
NAMED: Final = 20
"""How many versions `status` names."""
_ISSUED: Final = frozenset({VersionState.PRIMARY, VersionState.ACTIVE})


@dataclass(frozen=True, slots=True)
class Expiring:
    """A version in use that expires within `WARNING_S`, or has expired."""

    secret: SecretRecord
    version: SecretVersion
    expires_at: float
    expired: bool

    @property
    def warning(self) -> str:
        """What there is to tell: "expiring" or "expired"."""
        return "expired" if self.expired else "expiring"


def expiring(secrets: Iterable[SecretRecord], now_s: float) -> Iterator[Expiring]:
    """Yield the versions in use that want a rotation, in the order of `secrets`."""
    for secret in secrets:
        for version in secret.versions:
            end = version.expires_at
            if version.state in _ISSUED and end is not None and end <= now_s + WARNING_S:
                yield Expiring(secret, version, end, end <= now_s)


def warned(secret: SecretRecord, now_s: float) -> SecretRecord:
    """Return `secret` with what it tells of its versions marked as told; itself if all is."""
    told = {one.version.number: one.warning for one in expiring((secret,), now_s)}
    versions = tuple(
        msgspec.structs.replace(version, warned=told[version.number])
        if told.get(version.number, version.warned) != version.warned
        else version
        for version in secret.versions
    )
    if versions == secret.versions:
        return secret
    return msgspec.structs.replace(secret, versions=versions)


def next_warning(secrets: Iterable[SecretRecord], now_s: float) -> float | None:
    """Return when the next version begins to expire soon, or expires; None: none will."""
    ends = (
        version.expires_at
        for secret in secrets
        for version in secret.versions
        if version.state in _ISSUED and version.expires_at is not None
    )
    moments = (at for end in ends for at in (end - WARNING_S, end) if at > now_s)
    return min(moments, default=None)


def expiring_shown(found: Iterable[Expiring]) -> list[dict[str, JSON]]:
    """Return what an operator sees of versions that expire: what expires first comes first."""
    return [
        {
            "secret": one.secret.name,
            "version": one.version.number,
            "expires_at": moment(one.expires_at),
            "expired": one.expired,
        }
        for one in sorted(found, key=lambda one: (one.expires_at, one.secret.name))
    ]


def findings(shown: Sequence[Mapping[str, JSON]]) -> Iterator[dict[str, JSON]]:
    """Yield what `status` says of the versions shown."""
    for one in shown[:NAMED]:
        word = "expired" if one["expired"] else "expires"
        yield {
            "level": "unhealthy" if one["expired"] else "weak",
            "why": f"version {one['version']} of secret {one['secret']} {word} at "
            f"{one['expires_at']}; run `strongroom secret rotate {one['secret']}`",
        }
    if len(shown) > NAMED:
        yield {
            "level": "weak",
            "why": f"{len(shown) - NAMED} more versions expire within a week or have expired; "
            "see `strongroom secret ls`",
        }
