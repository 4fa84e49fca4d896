"""Records of who asked for what: kept answers, the links of the audit chains, and the checkpoint
behind which older links were trimmed.
"""

import msgspec

from cluster.protocol.ids import ManagerId
from cluster.store.records.kinds import Kind, Record

CHECKPOINT_ID = "checkpoint"


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
    request_id: str = ""
    """Of the request that was carried out, or that asked for the rotation which this is a step of
    (its own id where it began by schedule); refusals and what else managers do by themselves have
    none."""
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


class TrimmedHead(msgspec.Struct, frozen=True):
    """Where a chain stood at a checkpoint: its links up to `sequence` are trimmed."""

    stream: str
    manager_id: ManagerId
    boot: str
    lane: int
    sequence: int
    digest: bytes
    """SHA-256 of link `sequence`."""
    since: int
    """Number of the first checkpoint that knew the chain: of two boots, which was first."""
    finished: bool = False
    """Nothing will ever be appended: its registration goes with its last link."""


class AuditCheckpointRecord(Record, frozen=True, kw_only=True):
    """The one checkpoint behind which all chains are trimmed; its id is `CHECKPOINT_ID`.

    What the trimmed links told is told by the summary: all records that existed at `revision`.
    """

    kind = Kind.AUDIT_CHECKPOINT
    number: int
    """From 1."""
    revision: int
    """Engine revision up to which links are exported and trimmed."""
    at: float
    heads: tuple[TrimmedHead, ...]
    summary: str
    """Names the pieces of the summary, which are of this checkpoint alone."""
    pieces: int
    exported_by: ManagerId
    """The manager in whose data directory the export lies."""
    export: str
    """Name of the export file."""


class AuditSummaryRecord(Record, frozen=True, kw_only=True):
    """One piece of a checkpoint's summary; id is `summary_id()`."""

    kind = Kind.AUDIT_SUMMARY
    summary: str
    present: tuple[tuple[bytes, int], ...]
    """(blinded key, generation) of records that existed."""


def summary_id(summary: str, piece: int) -> str:
    """Return the id of a piece, which counts from 0."""
    return f"{summary}.{piece}"


def audit_stream(manager_id: ManagerId, boot: str, lane: int) -> str:
    """Return the name of an audit append stream."""
    return f"audit/{manager_id}/{boot}/{lane}"
