"""For how long versions live, as an operator says it: keep, overlap, expiry. Pure.

Owns the limits and how they go together; what becomes of versions by them is `versions`' business.
"""

from datetime import UTC, datetime
from typing import Final

import msgspec

from cluster.control.moments import moment
from cluster.control.versions import MAX_KEEP
from cluster.protocol.errors import InvalidRequest
from cluster.store.records import SecretRecord, SecretVersion

MAX_OVERLAP_S: Final = 366 * 86_400.0
MAX_EXPIRY_S: Final = 100 * 366 * 86_400.0


class VersionTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator says of a secret's versions; what is None stays, or is the default."""

    keep: int | None = None
    """Retired versions whose values stay for a rollback."""
    overlap_s: float | None = None
    """How long the version before stays active after a rotation."""
    expires_in_s: float | None = None
    """From now."""
    expires_at: str | None = None
    """ISO 8601; a date is its first moment, and a time without a zone is UTC."""
    never_expires: bool = False


NO_TERMS: Final = VersionTerms()


def check_terms(terms: VersionTerms) -> VersionTerms:
    """Return `terms`, or raise InvalidRequest for what is out of range or contradicts itself."""
    if terms.keep is not None and not 0 <= terms.keep <= MAX_KEEP:
        raise InvalidRequest(f"a secret keeps the values of 0 to {MAX_KEEP} retired versions")
    if terms.overlap_s is not None and not 0 <= terms.overlap_s <= MAX_OVERLAP_S:
        raise InvalidRequest("an overlap lasts from 0 seconds to 366 days")
    given = (terms.expires_in_s is not None, terms.expires_at is not None, terms.never_expires)
    if sum(given) > 1:
        raise InvalidRequest("give one expiry: a time from now, a moment, or never")
    return terms


def expiry_of(terms: VersionTerms, now_s: float) -> float | None:
    """Return the moment `terms` names, or None where they name none. Raises InvalidRequest."""
    if terms.expires_in_s is not None:
        at = now_s + terms.expires_in_s
    elif terms.expires_at is not None:
        at = _parsed(terms.expires_at)
    else:
        return None
    if not now_s < at <= now_s + MAX_EXPIRY_S:
        raise InvalidRequest("the expiry has passed already, or is more than a century away")
    return at


def overlap_of(
    terms: VersionTerms, left: SecretVersion, expires_at: float | None, now_s: float
) -> float | None:
    """Return the overlap asked for, or None for the secret's own.

    `left`: the version it keeps active; `expires_at`: of the version that comes. Raises
    InvalidRequest if it outlives either credential: neither would work to its end.
    """
    if not terms.overlap_s:
        return terms.overlap_s
    _check_outlives(terms.overlap_s, left.expires_at, f"version {left.number}", now_s)
    _check_outlives(terms.overlap_s, expires_at, "the new version", now_s)
    return terms.overlap_s


def changed_terms(secret: SecretRecord, terms: VersionTerms, now_s: float) -> SecretRecord:
    """Return `secret` by new terms; the expiry is its primary's. Raises InvalidRequest."""
    if check_terms(terms) == NO_TERMS:
        raise InvalidRequest("say what to change: keep, overlap or expiry")
    primary = secret.primary
    asked = expiry_of(terms, now_s)
    expires_at = asked if asked is not None or terms.never_expires else primary.expires_at
    overlap_s = secret.overlap_s if terms.overlap_s is None else terms.overlap_s
    if asked is not None or terms.overlap_s:
        _check_outlives(overlap_s, expires_at, f"version {primary.number}", now_s)
    versions = tuple(
        msgspec.structs.replace(version, expires_at=expires_at, warned="")
        if version is primary
        else version
        for version in secret.versions
    )
    return msgspec.structs.replace(
        secret,
        versions=versions,
        keep=secret.keep if terms.keep is None else terms.keep,
        overlap_s=overlap_s,
        updated_at=now_s,
    )


def _check_outlives(overlap_s: float, expires_at: float | None, what: str, now_s: float) -> None:
    if overlap_s and expires_at is not None and now_s + overlap_s > expires_at:
        raise InvalidRequest(
            f"an overlap of {overlap_s:.0f} seconds is longer than {what} lasts, which expires at "
            f"{moment(expires_at)}; choose a shorter overlap, or 0"
        )


def _parsed(text: str) -> float:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest("a moment reads 2027-01-31 or 2027-01-31T18:00:00Z") from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
