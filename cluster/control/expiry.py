"""Credentials that end by themselves: which versions expire soon, or did. Pure.

A warning only: what has expired is issued on, because the file on a node is better stale than gone.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from cluster.control.moments import moment
from cluster.control.requests import JSON
from cluster.store.records import SecretRecord, SecretVersion, VersionState

WARNING_S: Final = 7 * 86_400.0
_ISSUED: Final = frozenset({VersionState.PRIMARY, VersionState.ACTIVE})


@dataclass(frozen=True, slots=True)
class Expiring:
    """A version in use that expires within `WARNING_S`, or has expired."""

    secret: SecretRecord
    version: SecretVersion
    expires_at: float
    expired: bool


def expiring(secrets: Iterable[SecretRecord], now_s: float) -> Iterator[Expiring]:
    """Yield the versions in use that want a rotation, in the order of `secrets`."""
    for secret in secrets:
        for version in secret.versions:
            end = version.expires_at
            if version.state in _ISSUED and end is not None and end <= now_s + WARNING_S:
                yield Expiring(secret, version, end, end <= now_s)


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


def finding(one: Expiring) -> dict[str, JSON]:
    """Return what `status` says of it."""
    name, number = one.secret.name, one.version.number
    word = "expired" if one.expired else "expires"
    return {
        "level": "unhealthy" if one.expired else "weak",
        "why": f"version {number} of secret {name} {word} at {moment(one.expires_at)}; "
        f"run `strongroom secret rotate {name}`",
    }
