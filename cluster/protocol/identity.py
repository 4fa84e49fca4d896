"""SPIFFE ids and callers: who speaks. Source: the SPIFFE ID standard, section 2.

Named tuples, because every command loads this: `dataclasses` would take longer than all else here.
"""

import re
from enum import StrEnum
from typing import NamedTuple, Self

from cluster.protocol.errors import InvalidRequest


class Kind(StrEnum):
    """The first path segment of a SPIFFE id."""

    MANAGER = "manager"
    NODE = "node"
    OPERATOR = "operator"
    SERVICE = "service"


_TRUST_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,253}[a-z0-9])?")
_SUBJECT = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9._-]{0,62}[a-zA-Z0-9])?")


class _Parts(NamedTuple):
    trust_domain: str
    kind: Kind
    subject: str


class SpiffeId(_Parts):
    """An identity: trust domain, kind and subject (an id for managers and nodes, else a name)."""

    __slots__ = ()

    def __new__(cls, trust_domain: str, kind: Kind, subject: str) -> Self:
        """Check the parts; raise InvalidRequest."""
        if _TRUST_DOMAIN.fullmatch(trust_domain) is None or ".." in trust_domain:
            raise InvalidRequest("a trust domain takes lower-case letters, digits, '.' and '-'")
        if _SUBJECT.fullmatch(subject) is None or ".." in subject:
            raise InvalidRequest("the subject of a SPIFFE id is not valid")
        return super().__new__(cls, trust_domain, kind, subject)

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/{self.kind.value}/{self.subject}"

    @classmethod
    def parse(cls, uri: str) -> "SpiffeId":
        """Return the identity in `uri`, or raise InvalidRequest.

        Nothing is normalised: an id that is not exactly of our shape is refused (path normalisation
        gave impersonation in another implementation).
        """
        match uri.split("/"):
            case ["spiffe:", "", trust_domain, kind, subject] if kind in set(Kind):
                return cls(trust_domain, Kind(kind), subject)
            case _:
                raise InvalidRequest("not a SPIFFE id of this cluster")


class Caller(NamedTuple):
    """An authenticated peer: what its certificate proves and nothing more; rights are read from the
    record."""

    identity: SpiffeId
    serial: int
    fingerprint: str
    """SHA-256 of the certificate, hex: live connections are cut by it."""
    not_after_s: float
    """Unix seconds."""
