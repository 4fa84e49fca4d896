"""Audit chains: one per manager, boot and lane; each link holds the digest of the link before.

Owns making links, verifying them and reading them back. A global chain would serialise every write
of the cluster; chains per lane only need one transaction in flight per lane. A link is sealed into
the transaction whose writes it tells of, so neither exists without the other. Every chain is
registered (`AuditStreamRecord`) by its first transaction. What a chain cannot show is that its
newest links were cut off together with what they told of. Source: ADR 0011.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cluster.engine.seam import Engine, Entry
from cluster.protocol.errors import AuditChainBroken, OpenFailed
from cluster.protocol.ids import ManagerId
from cluster.seal.envelope import open_record
from cluster.seal.keyring import PREFIX_SIZE, Keyring
from cluster.store.records import (
    AuditEntry,
    AuditRecord,
    AuditStreamRecord,
    TrimmedHead,
    audit_stream,
    decode_audit,
    encode,
)

AUDIT_KIND: Final = "audit"
"""Bound into the envelope of a link, whose generation is its sequence."""
NO_LINK: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class ChainHead:
    """Where a chain stands: the next link follows `sequence` and holds `digest`."""

    manager_id: ManagerId
    boot: str
    lane: int
    sequence: int = 0
    digest: bytes = NO_LINK

    @property
    def stream(self) -> str:
        """The name of the append stream."""
        return audit_stream(self.manager_id, self.boot, self.lane)

    def link(
        self, entries: tuple[AuditEntry, ...], writes: tuple[tuple[bytes, int], ...]
    ) -> AuditRecord:
        """Return the next link; the chain has it only once `after` is called."""
        return AuditRecord(
            manager_id=self.manager_id,
            boot=self.boot,
            lane=self.lane,
            sequence=self.sequence + 1,
            previous=self.digest,
            entries=entries,
            writes=writes,
        )

    def after(self, record: AuditRecord) -> "ChainHead":
        """Return the head behind a committed link; raise AuditChainBroken if it does not follow."""
        if record != self.link(record.entries, record.writes):
            raise AuditChainBroken(
                f"link {record.sequence} of {self.stream} does not follow link {self.sequence}"
            )
        return ChainHead(
            self.manager_id, self.boot, self.lane, record.sequence, sha256(encode(record)).digest()
        )

    def registration(self, started_at: float) -> AuditStreamRecord:
        """Return the record that makes the chain known."""
        return AuditStreamRecord(
            id=self.stream,
            manager_id=self.manager_id,
            boot=self.boot,
            lane=self.lane,
            started_at=started_at,
        )


def trimmed_head(head: TrimmedHead) -> ChainHead:
    """Return the head that the first link behind a checkpoint follows."""
    return ChainHead(head.manager_id, head.boot, head.lane, head.sequence, head.digest)


def verify_chain(records: Iterable[AuditRecord], checkpoint: ChainHead | None = None) -> None:
    """Raise AuditChainBroken unless the links of one chain follow each other without a gap.

    They start at link 1, or behind `checkpoint` where older links were exported and trimmed.
    """
    head = checkpoint
    for record in records:
        if head is None:
            head = ChainHead(record.manager_id, record.boot, record.lane)
        head = head.after(record)


def writes_of(record: AuditRecord) -> Iterator[tuple[bytes, int]]:
    """Yield (blinded key, generation) of all that a link tells was written; 0 is a removal."""
    yield from record.writes
    for entry in record.entries:
        yield from entry.writes


async def read_chain(
    engine: Engine, keyring: Keyring, stream: str, up_to: int | None = None, behind: int = 0
) -> AsyncIterator[AuditRecord]:
    """Yield the links of a stream in order, those committed after revision `up_to` left out.

    `behind`: the sequence after which to begin; what lies up to it is not opened.

    Raises AuditChainBroken for a link that cannot be opened or does not belong where it lies.
    """
    prefix = keyring.stream_prefix(stream)
    after = keyring.stream_key(stream, behind) if behind else None
    while True:
        # A chain only grows at its end, so its pages need not be of one revision.
        page = await engine.list_page(prefix, after=after)
        for entry in page.entries:
            if up_to is not None and entry.mod_revision > up_to:
                return
            yield open_link(keyring, stream, entry)
        if not page.more:
            return
        after = page.entries[-1].key


def open_link(keyring: Keyring, stream: str, entry: Entry) -> AuditRecord:
    """Return the link in an engine entry, or raise AuditChainBroken."""
    try:
        opened = open_record(keyring, kind=AUDIT_KIND, engine_key=entry.key, sealed=entry.value)
        record = decode_audit(opened.plaintext)
    except OpenFailed:
        raise AuditChainBroken(f"a link of {stream} cannot be opened") from None
    sequence = int.from_bytes(entry.key[PREFIX_SIZE:])
    named = audit_stream(record.manager_id, record.boot, record.lane)
    if (named, record.sequence, opened.generation) != (stream, sequence, sequence):
        raise AuditChainBroken(f"a link of {stream} lies in another's place")
    return record
