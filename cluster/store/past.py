"""What happened to records, revision by revision, as far back as the engine's history goes.

Owns reading that history: the records of some kinds as they stood at a revision, what each later
revision made of them, and which audit entry tells of it. The view shows the newest state only, and
a manager that restarts has forgotten how it came about; the engine has not. It judges nothing, and
decides nothing about who may see it. A secret's value has no kind that it would open.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from dataclasses import dataclass
from typing import Final

from cluster.engine.seam import Change, Entry, WatchBatch
from cluster.protocol.errors import Compacted, HistoryGone, InvariantViolation, OpenFailed
from cluster.seal.envelope import open_record
from cluster.store.audit_chain import AUDIT_KIND
from cluster.store.keyring_cell import KEYRING_KEY
from cluster.store.records import (
    AuditEntry,
    AuditRecord,
    Kind,
    Record,
    audit_stream,
    decode,
    decode_audit,
)
from cluster.store.sealed_store import SealedStore
from cluster.store.view import RecordChange

YIELD_RECORDS: Final = 50
"""Records that are opened before others have their turn: opening is work for the processor."""


@dataclass(frozen=True, slots=True)
class Happened:
    """A change of one record, and the audit entry of the write that made it, where there is one."""

    change: RecordChange
    entry: AuditEntry | None


@dataclass(frozen=True, slots=True)
class Moment:
    """All that one revision changed in the records that are followed; often nothing."""

    revision: int
    happened: tuple[Happened, ...]


class Past:
    """The history of the records of some kinds, read for one follower."""

    def __init__(self, store: SealedStore, kinds: Collection[Kind]) -> None:
        if Kind.SECRET_VALUE in kinds:
            raise InvariantViolation("values have no history that anybody may read")
        self._store = store
        self._kinds = frozenset(kinds)
        self._known: dict[bytes, Record] = {}
        self._since = 0

    @property
    def since(self) -> int:
        """The revision behind which `moments` begins."""
        return self._since

    async def begin(self, since: int | None) -> None:
        """Take in the records as they stood at `since`: None is as early as history goes.

        Raises HistoryGone, and what the engine raises if it cannot be read.
        """
        store = self._store
        if since is None:
            since = await self._oldest()
        self._since = since
        if since == store.view.revision:
            # Nothing is awaited up to the end, so this is one state: the view's.
            for kind in self._kinds:
                for stored in store.view.table(kind).values():
                    key = store.keyring.engine_key(kind.value, stored.record.id)
                    self._known[key] = stored.record
            return
        try:
            for kind in self._kinds:
                await self._list(kind, since)
        except Compacted:
            raise await self._gone() from None

    async def moments(self) -> AsyncGenerator[Moment, None]:
        """Yield every revision behind `since` in order, each once, for ever.

        Raises HistoryGone for a follower that is too slow.
        """
        batches = self._store.engine.watch(b"", self._since + 1)
        try:
            async for batch in batches:
                yield self._taken_in(batch)
        except Compacted:
            raise await self._gone() from None

    async def _list(self, kind: Kind, at: int) -> None:
        prefix, after = self._store.keyring.kind_prefix(kind.value), None
        while True:
            page = await self._store.engine.list_page(prefix, after=after, at_revision=at)
            for number, entry in enumerate(page.entries):
                self._known[entry.key] = self._opened(kind, entry)
                if number % YIELD_RECORDS == 0:
                    await asyncio.sleep(0)
            if not page.more:
                return
            after = page.entries[-1].key

    def _taken_in(self, batch: WatchBatch) -> Moment:
        changes = [self._change(change) for change in batch.changes]
        changed = [change for change in changes if change is not None]
        if not changed:
            return Moment(batch.revision, ())
        told = self._told(batch)
        happened = (Happened(change, told.get(key)) for key, change in changed)
        return Moment(batch.revision, tuple(happened))

    def _change(self, change: Change) -> tuple[bytes, RecordChange] | None:
        key = change.entry.key
        kind = self._store.kind_of(key)
        if kind not in self._kinds:
            return None
        before = self._known.pop(key, None)
        after = None if change.deleted else self._opened(kind, change.entry)
        if after is not None:
            self._known[key] = after
        record = after or before
        # A record that is sealed anew, under another epoch say, has not changed.
        if record is None or before == after:
            return None
        return key, RecordChange(kind, record.id, before, after)

    def _opened(self, kind: Kind, entry: Entry) -> Record:
        keyring = self._store.keyring
        try:
            opened = open_record(keyring, kind=kind.value, engine_key=entry.key, sealed=entry.value)
            record = decode(kind, opened.plaintext)
        except OpenFailed:
            # Old states may lie under an epoch whose key was destroyed since. What was tampered
            # with in the present, the view reports.
            raise HistoryGone from None
        if keyring.engine_key(kind.value, record.id) != entry.key:
            raise HistoryGone
        return record

    def _told(self, batch: WatchBatch) -> dict[bytes, AuditEntry]:
        """Return the entries of the revision's audit link, by the keys that they tell of."""
        told: dict[bytes, AuditEntry] = {}
        for change in batch.changes:
            link = None if change.deleted else self._link(change.entry)
            for entry in link.entries if link is not None else ():
                told.update(dict.fromkeys((key for key, _ in entry.writes), entry))
        return told

    def _link(self, entry: Entry) -> AuditRecord | None:
        """Return the audit link under a key; None for what is something else."""
        keyring = self._store.keyring
        if entry.key == KEYRING_KEY or self._store.kind_of(entry.key) is not None:
            return None
        try:
            opened = open_record(keyring, kind=AUDIT_KIND, engine_key=entry.key, sealed=entry.value)
            link = decode_audit(opened.plaintext)
        except OpenFailed:
            return None
        stream = audit_stream(link.manager_id, link.boot, link.lane)
        return link if keyring.stream_key(stream, link.sequence) == entry.key else None

    async def _gone(self) -> HistoryGone:
        oldest = self._store.revision(await self._oldest())
        return HistoryGone(
            f"what happened that long ago is not kept; ask from {oldest} on, "
            "and look at how things stand by themselves"
        )

    async def _oldest(self) -> int:
        """Return the oldest revision whose state can still be read."""
        first: AsyncIterator[WatchBatch] = self._store.engine.watch(b"", 1)
        try:
            async for batch in first:
                return batch.revision
        except Compacted as compacted:
            return compacted.revision
        raise InvariantViolation("a watch has no end")
