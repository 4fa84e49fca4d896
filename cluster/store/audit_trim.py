"""Trimming: audit links leave the store for an export file, behind a checkpoint.

Owns the order of the steps, of which each may be the last before a crash:

    step                       afterwards a crash leaves
    1 export, unfinished       a `.part` file; the next export removes it
    2 summary in the store     pieces that no checkpoint names; removed before the next trim
    3 export durable           a whole file whose links are still in the store; it stays
    4 checkpoint committed     links that nobody needs; whoever holds the duty next deletes them
    5 links deleted            nothing

Nothing is trimmed that does not verify: the summary vouches for what the trimmed links told, so a
record that was tampered with must not get into it. One manager trims at a time; every write carries
the guard of its duty. Source: ADR 0011.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from cluster.engine.seam import (
    REQUEST_ID_SIZE,
    Committed,
    Compare,
    CompareFailed,
    Delete,
    OutcomeUnknown,
)
from cluster.protocol import errors
from cluster.protocol.ids import ID_SIZE, ManagerId, format_id
from cluster.seal.envelope import peek
from cluster.seal.keyring import new_keyring
from cluster.store.audit_export import SUFFIX, AuditExport
from cluster.store.records import (
    CHECKPOINT_ID,
    AuditCheckpointRecord,
    AuditEntry,
    AuditSummaryRecord,
    ManagerState,
    TrimmedHead,
    summary_id,
)
from cluster.store.sealed_store import SealedStore
from cluster.store.start_check import Tale, checkpoint_of, read_tale
from cluster.store.steps import Create, Remove, Replace, Write
from cluster.store.view import Stored, View
from cluster.system import Clock, Entropy

log = structlog.get_logger(__name__)

PAIRS_PER_PIECE: Final = 4_000
"""Records that one piece of a summary names: about 220 kB."""
PIECES_PER_WRITE: Final = 20
"""Pieces removed at once."""
LINKS_PER_DELETE: Final = 100

Guards = tuple[Compare, ...]
Describe = Callable[[str], AuditEntry]
"""Makes the audit entry of a step from its detail."""


@dataclass(slots=True)
class Growth:
    """The links behind the checkpoint."""

    links: int = 0
    size_bytes: int = 0
    epochs: set[int] = field(default_factory=set)
    """The key epochs that they are sealed under."""


class AuditTrim:
    """Trims one store's chains, and says how far they have grown."""

    def __init__(
        self,
        store: SealedStore,
        clock: Clock,
        entropy: Entropy,
        directory: Path,
        manager_id: ManagerId,
    ) -> None:
        """Trim `store`; exports of this manager go to `directory`."""
        self.store = store
        self._clock = clock
        self._entropy = entropy
        self._directory = directory
        self._manager_id = manager_id
        self._growth = Growth()
        self._counted: dict[str, bytes] = {}
        """Stream -> the key of its last link that was counted."""
        self._counted_from = ""
        """The summary of the checkpoint behind which was counted."""
        self._cleaned: str | None = None
        """The summary of the checkpoint behind which nothing is left to delete."""

    @property
    def links(self) -> int:
        """How many links lay behind the checkpoint when they were measured last."""
        return self._growth.links

    async def measure(self) -> Growth:
        """Return how many links lie behind the checkpoint; reads only those added since last."""
        checkpoint = checkpoint_of(self.store)
        summary = "" if checkpoint is None else checkpoint.summary
        if summary != self._counted_from:
            heads = () if checkpoint is None else checkpoint.heads
            key = self.store.keyring.stream_key
            self._growth = Growth()
            self._counted = {head.stream: key(head.stream, head.sequence) for head in heads}
            self._counted_from = summary
        for stream in self.store.view.audit_streams:
            await self._count(stream)
        return self._growth

    async def _count(self, stream: str) -> None:
        prefix, growth = self.store.keyring.stream_prefix(stream), self._growth
        while True:
            page = await self.store.engine.list_page(prefix, after=self._counted.get(stream))
            for entry in page.entries:
                growth.links += 1
                growth.size_bytes += len(entry.key) + len(entry.value)
                growth.epochs.add(peek(entry.value).epoch)
                self._counted[stream] = entry.key
            if not page.more:
                return

    async def trim(self, guards: Guards, describe: Describe) -> AuditCheckpointRecord:
        """Export all links up to now, set a checkpoint, and delete them; return the checkpoint.

        Raises AuditChainBroken, after reporting it as a fault, for a store that does not hold what
        its chains tell; Conflict if the duty is lost; Unavailable (a disk that is full as well):
        try again later.
        """
        await self.store.barrier()
        await self.clean(guards)
        try:
            checkpoint = await self._export(guards)
        except OSError as error:
            raise errors.Unavailable(
                f"the audit cannot be exported ({error.strerror}); make room in the data directory"
            ) from None
        entry = describe(f"{checkpoint.number}: {checkpoint.export}")
        await self._commit(checkpoint, guards, entry)
        await self.clean(guards)
        return checkpoint

    async def clean(self, guards: Guards) -> None:
        """Delete what the checkpoint made useless: links, ended chains, pieces of other summaries.

        Goes on where another manager stopped; does nothing when it was done.
        """
        checkpoint = checkpoint_of(self.store)
        summary = "" if checkpoint is None else checkpoint.summary
        if self._cleaned == summary and not self._strangers(summary):
            return
        for head in () if checkpoint is None else checkpoint.heads:
            await self._delete_links(head, guards)
            if head.finished:
                await self._unregister(head, guards)
        while pieces := self._strangers(summary)[:PIECES_PER_WRITE]:
            await self.store.commit(Write(tuple(Remove(piece) for piece in pieces), guards=guards))
        self._cleaned = summary

    # --- the steps --------------------------------------------------------------------------

    async def _export(self, guards: Guards) -> AuditCheckpointRecord:
        """Take steps 1 to 3."""
        keyring = new_keyring(self._entropy)
        before = checkpoint_of(self.store)
        # Not a revision: those begin again when the store moves to another engine.
        number = 1 if before is None else before.number + 1
        name = f"{number:020}-{self._draw()}{SUFFIX}"
        wrapped = self.store.wrap(keyring)
        export = await asyncio.to_thread(
            AuditExport.open, self._directory / name, keyring, wrapped, self._entropy
        )
        try:
            tale = await read_tale(self.store, export.add)
            await self._require_truth(tale)
            summary = self._draw()
            pieces = await self._write_summary(summary, tale, guards)
            checkpoint = self._checkpoint(tale, summary, pieces, name)
            await asyncio.to_thread(export.finish, checkpoint)
        except BaseException:
            export.discard()
            raise
        log.info("audit.exported", links=tale.links, export=name, revision=tale.revision)
        return checkpoint

    async def _require_truth(self, tale: Tale) -> None:
        if not tale.wrong:
            return
        await self.store.barrier()
        if checkpoint_of(self.store) != tale.checkpoint:
            raise errors.Conflict("another manager trimmed the audit; it carries on")
        for kind, what in tale.wrong:
            self.store.view.fault(kind, what)
        raise errors.AuditChainBroken(
            "the audit is not trimmed: the store does not hold what it tells; "
            "see docs/how-to/integrity.md"
        )

    async def _write_summary(self, summary: str, tale: Tale, guards: Guards) -> int:
        """Store the summary's pieces and return how many there are."""
        present = sorted((key, generation) for key, (_, generation) in tale.present.items())
        starts = range(0, len(present), PAIRS_PER_PIECE)
        for number, start in enumerate(starts):
            piece = AuditSummaryRecord(
                id=summary_id(summary, number),
                summary=summary,
                present=tuple(present[start : start + PAIRS_PER_PIECE]),
            )
            await self.store.commit(Write((Create(piece),), guards=guards))
        return len(starts)

    def _checkpoint(
        self, tale: Tale, summary: str, pieces: int, name: str
    ) -> AuditCheckpointRecord:
        return AuditCheckpointRecord(
            id=CHECKPOINT_ID,
            number=1 if tale.checkpoint is None else tale.checkpoint.number + 1,
            revision=tale.revision,
            at=self._clock.now().timestamp(),
            heads=tuple(_heads(tale, _removed(self.store.view))),
            summary=summary,
            pieces=pieces,
            exported_by=self._manager_id,
            export=name,
        )

    async def _commit(
        self, checkpoint: AuditCheckpointRecord, guards: Guards, entry: AuditEntry
    ) -> None:
        """Take step 4."""

        def decide(view: View) -> Write | None:
            stored = view.audit_checkpoints.get(CHECKPOINT_ID)
            if stored is not None and stored.record.summary == checkpoint.summary:
                return None
            if (0 if stored is None else stored.record.number) != checkpoint.number - 1:
                raise errors.Conflict("another manager trimmed the audit; it carries on")
            step = Create(checkpoint) if stored is None else Replace(stored, checkpoint)
            return Write((step,), (entry,), guards)

        await self.store.update(decide)

    async def _delete_links(self, head: TrimmedHead, guards: Guards) -> None:
        """Take step 5 for one chain."""
        prefix = self.store.keyring.stream_prefix(head.stream)
        last = self.store.keyring.stream_key(head.stream, head.sequence)
        while True:
            page = await self.store.engine.list_page(prefix, limit=LINKS_PER_DELETE)
            keys = [entry.key for entry in page.entries if entry.key <= last]
            if not keys:
                return
            # Not by way of the lanes: their links would take the place of those that go.
            outcome = await self.store.engine.transact(
                self._entropy.token(REQUEST_ID_SIZE), guards, [Delete(key) for key in keys]
            )
            match outcome:
                case Committed():
                    continue
                case CompareFailed():
                    raise errors.Conflict("this manager no longer holds the duty")
                case OutcomeUnknown():
                    raise errors.OutcomeUnknown

    async def _unregister(self, head: TrimmedHead, guards: Guards) -> None:
        """Remove the registration of a chain that ended, unless it went on after all."""
        stored = self.store.view.audit_streams.get(head.stream)
        prefix = self.store.keyring.stream_prefix(head.stream)
        if stored is None or (await self.store.engine.list_page(prefix, limit=1)).entries:
            return
        await self.store.commit(Write((Remove(stored),), guards=guards))

    def _strangers(self, summary: str) -> list[Stored[AuditSummaryRecord]]:
        """Return the pieces that are not of this summary."""
        pieces = self.store.view.audit_summaries.values()
        return [piece for piece in pieces if piece.record.summary != summary]

    def _draw(self) -> str:
        return format_id(self._entropy.token(ID_SIZE))


def _removed(view: View) -> frozenset[ManagerId]:
    return frozenset(
        ManagerId(stored.record.id)
        for stored in view.managers.values()
        if stored.record.state is ManagerState.REMOVED
    )


def _heads(tale: Tale, removed: frozenset[ManagerId]) -> Iterator[TrimmedHead]:
    """Yield where the chains stand.

    A chain is finished once nothing was added to it from one checkpoint to the next although its
    manager was removed, or runs as a later boot. Which of two boots came later is told by the
    checkpoint that first knew them, not by a clock.
    """
    number = 1 if tale.checkpoint is None else tale.checkpoint.number + 1
    before = {} if tale.checkpoint is None else {h.stream: h for h in tale.checkpoint.heads}
    since = {s: before[s].since if s in before else number for s in tale.heads}
    newest: dict[ManagerId, int] = {}
    for stream, head in tale.heads.items():
        newest[head.manager_id] = max(newest.get(head.manager_id, 0), since[stream])
    for stream, head in tale.heads.items():
        idle = stream in before and before[stream].sequence == head.sequence
        over = newest[head.manager_id] > since[stream] or head.manager_id in removed
        yield TrimmedHead(
            stream=stream,
            manager_id=head.manager_id,
            boot=head.boot,
            lane=head.lane,
            sequence=head.sequence,
            digest=head.digest,
            since=since[stream],
            finished=idle and over,
        )
