"""Records of who asked for what: kept answers, and the links of the audit chains."""

import msgspec

from cluster.protocol.ids import ManagerId
from cluster.store.records.kinds import Kind, Record


class RequestRecord(Record, frozen=True, kw_only=True):
    """The answer to an operator's write, kept so that a resend learns it; id is the request id."""

    kind = Kind.REQUEST
    caller: str
    digest: str
    """SHA-256 of method, path and body under the index key: no value's digest is stored plain."""
    status: int
    answer: bytes
    """JSON, never a value."""
    expires_at: float


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who asked for what and whether it was allowed; never a value."""

    at: float
    caller: str
    """SPIFFE id, `local-root`, or `anonymous@address`."""
    action: str
    resource: str
    allowed: bool
    detail: str = ""
    count: int = 1
    """More than one: equal refusals that were coalesced."""
    writes: tuple[tuple[bytes, int], ...] = ()
    """(blinded key, generation) of each record written; generation 0 stands for a removal.

    By these a stopped cluster can be checked against the chain.
    """


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One link of a chain: all entries of one engine transaction. Lives in an append stream.

    The next link holds the digest of its encoding. Defaults are left out, so that a field added
    later does not change the encoding of older links.
    """

    manager_id: ManagerId
    boot: str
    lane: int
    sequence: int
    """From 1, without gap, per (manager, boot, lane)."""
    previous: bytes
    """SHA-256 of the link before; 32 zero bytes at the start."""
    entries: tuple[AuditEntry, ...]
    writes: tuple[tuple[bytes, int], ...] = ()
    """As in an entry, for the records that were written without an entry of their own."""


class AuditStreamRecord(Record, frozen=True, kw_only=True):
    """A chain that has a first link; id is `audit_stream()`.

    Created with that link, so no chain can be overlooked.
    """

    kind = Kind.AUDIT_STREAM
    manager_id: ManagerId
    boot: str
    lane: int
    started_at: float


def audit_stream(manager_id: ManagerId, boot: str, lane: int) -> str:
    """Return the name of an audit append stream."""
    return f"audit/{manager_id}/{boot}/{lane}"
