"""Counts what an operation asks of the engine and of the processor, in numbers that no machine
changes: transactions, operations, bytes, barriers, reads, sealed and opened records, calls."""

import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType

import cluster
from cluster.engine.seam import (
    Compare,
    Delete,
    Engine,
    Entry,
    Operation,
    Outcome,
    Page,
    Put,
    WatchBatch,
)
from cluster.seal import aead

OURS = str(Path(cluster.__file__).parent)
SEAL, OPEN = aead.Sealer.seal.__code__, aead.Opener.open.__code__


@dataclass
class Counts:
    """What was asked for while it was counted."""

    transactions: int = 0
    operations: int = 0
    written_bytes: int = 0
    barriers: int = 0
    reads: int = 0
    """Entries that were looked up or listed, changes brought by the watch left out."""
    calls: Counter[CodeType] = field(default_factory=Counter)
    """Calls of the manager's functions in this thread; a coroutine's resumption counts as one."""

    @property
    def sealed(self) -> int:
        """AEAD encryptions of records."""
        return self.calls[SEAL]

    @property
    def opened(self) -> int:
        """AEAD decryptions of records."""
        return self.calls[OPEN]

    @property
    def work(self) -> int:
        """All calls together."""
        return self.calls.total()


class CountingEngine:
    """A port to a real engine that counts."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.counts = Counts()

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    async def transact(
        self, request_id: bytes, compares: Sequence[Compare], operations: Sequence[Operation]
    ) -> Outcome:
        """Count, and pass on. A tick is left out: only a slow machine's barrier needs it."""
        if not compares and [_size(one) - len(one.key) for one in operations] == [1]:
            return await self._engine.transact(request_id, compares, operations)
        self.counts.transactions += 1
        self.counts.operations += len(operations)
        self.counts.written_bytes += sum(map(_size, operations))
        return await self._engine.transact(request_id, compares, operations)

    async def barrier(self) -> int:
        """Count, and pass on."""
        self.counts.barriers += 1
        return await self._engine.barrier()

    async def read(self, key: bytes, *, linearizable: bool = True) -> Entry | None:
        """Count, and pass on."""
        self.counts.reads += 1
        return await self._engine.read(key, linearizable=linearizable)

    async def list_page(
        self,
        prefix: bytes,
        *,
        after: bytes | None = None,
        at_revision: int | None = None,
        limit: int = 1_000,
        linearizable: bool = True,
    ) -> Page:
        """Count, and pass on."""
        page = await self._engine.list_page(
            prefix, after=after, at_revision=at_revision, limit=limit, linearizable=linearizable
        )
        self.counts.reads += len(page.entries)
        return page

    async def watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[WatchBatch]:
        """Pass on."""
        async for batch in self._engine.watch(prefix, from_revision):
            yield batch

    @contextmanager
    def counting(self) -> Iterator[Counts]:
        """Give fresh counts, which are complete at the end."""
        self.counts = counts = Counts()

        def note(frame: FrameType, event: str, _: object) -> None:
            if event == "call" and frame.f_code.co_filename.startswith(OURS):
                counts.calls[frame.f_code] += 1

        before = sys.getprofile()
        sys.setprofile(note)
        try:
            yield counts
        finally:
            sys.setprofile(before)


def _size(operation: Operation) -> int:
    match operation:
        case Put(key, value):
            return len(key) + len(value)
        case Delete(key):
            return len(key)
