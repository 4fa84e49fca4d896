"""Where every audit link lies, in the order of commit: what makes the chains readable as one list.

A link is one engine transaction, so its revision orders it among the links of all chains, whatever
clocks said. Owns the index in memory (20 bytes a link, for the links behind the checkpoint) and
reading runs of links by it. It opens links and decides nothing about who may see them; whether the
chains are whole is `start_check`'s business. Source: ADR 0011.
"""

import asyncio
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final

from cluster.protocol.errors import AuditChainBroken, Unavailable
from cluster.seal.keyring import PREFIX_SIZE
from cluster.store.audit_chain import open_link
from cluster.store.records import AuditRecord
from cluster.store.sealed_store import SealedStore
from cluster.store.start_check import checkpoint_of

MAX_RUN: Final = 500
"""Links that are opened at once, before others have their turn."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a link lies."""

    position: int
    """The engine revision of its transaction."""
    stream: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Placed:
    """A link and its position."""

    position: int
    link: AuditRecord


class AuditIndex:
    """The index of one store; reads each link's key once and forgets what is trimmed."""

    def __init__(self, store: SealedStore) -> None:
        self._store = store
        self._turn = asyncio.Lock()
        self._streams: list[str] = []
        self._numbers: dict[str, int] = {}
        self._positions = array("q")
        self._of_stream = array("I")
        self._sequences = array("q")
        self._last: dict[str, bytes] = {}
        """Stream -> the key of its last link that is known."""
        self._behind = 0
        """Revision of the checkpoint up to which links are forgotten."""

    async def refresh(self) -> int:
        """Learn of every link committed before the call; return the revision up to which the index
        is whole. Raises Unavailable if the engine cannot be read."""
        async with self._turn:
            revision = await self._store.barrier()
            self._forget()
            found: list[tuple[int, int, int]] = []
            last: dict[str, bytes] = {}
            for stream in list(self._store.view.audit_streams):
                await self._learn(stream, revision, found, last)
            # All or nothing: what a failed round had seen would be missing for ever.
            self._last |= last
            for position, number, sequence in sorted(found):
                self._positions.append(position)
                self._of_stream.append(number)
                self._sequences.append(sequence)
            return revision

    def oldest_first(self, after: int, limit: int) -> Sequence[Place]:
        """Return up to `limit` places with positions greater than `after`, the oldest first."""
        start = bisect_right(self._positions, after)
        return [self._place(at) for at in range(start, min(start + limit, len(self._positions)))]

    def newest_first(self, before: int, limit: int) -> Sequence[Place]:
        """Return up to `limit` places with positions less than `before`, the newest first."""
        end = bisect_left(self._positions, before)
        return [self._place(at) for at in range(end - 1, max(end - limit, 0) - 1, -1)]

    async def read(self, places: Sequence[Place]) -> list[Placed]:
        """Return the links at `places` (at most `MAX_RUN`), the oldest first.

        Raises Unavailable if they were trimmed meanwhile, AuditChainBroken if one is missing or
        does not belong where it lies.
        """
        by_stream = sorted((place.stream, place.sequence, place.position) for place in places)
        found: list[Placed] = []
        for stream, wanted in groupby(by_stream, key=itemgetter(0)):
            for run in _runs([(sequence, position) for _, sequence, position in wanted]):
                found += await self._read_run(stream, run)
        return sorted(found, key=lambda placed: placed.position)

    def __len__(self) -> int:
        return len(self._positions)

    # --- the parts --------------------------------------------------------------------------

    def _forget(self) -> None:
        checkpoint = checkpoint_of(self._store)
        if checkpoint is None or checkpoint.revision == self._behind:
            return
        self._behind = checkpoint.revision
        gone = bisect_right(self._positions, checkpoint.revision)
        del self._positions[:gone], self._of_stream[:gone], self._sequences[:gone]
        for head in checkpoint.heads:
            key = self._store.keyring.stream_key(head.stream, head.sequence)
            self._last[head.stream] = max(self._last.get(head.stream, b""), key)

    async def _learn(
        self, stream: str, up_to: int, found: list[tuple[int, int, int]], last: dict[str, bytes]
    ) -> None:
        prefix = self._store.keyring.stream_prefix(stream)
        number, after = self._number(stream), self._last.get(stream)
        while True:
            page = await self._store.engine.list_page(prefix, after=after)
            for entry in page.entries:
                if entry.mod_revision > up_to:
                    return
                sequence = int.from_bytes(entry.key[PREFIX_SIZE:])
                found.append((entry.mod_revision, number, sequence))
                last[stream] = after = entry.key
            if not page.more:
                return

    def _number(self, stream: str) -> int:
        if stream not in self._numbers:
            self._numbers[stream] = len(self._streams)
            self._streams.append(stream)
        return self._numbers[stream]

    def _place(self, at: int) -> Place:
        return Place(self._positions[at], self._streams[self._of_stream[at]], self._sequences[at])

    async def _read_run(self, stream: str, run: Sequence[tuple[int, int]]) -> list[Placed]:
        """Return the links of one chain whose sequences follow each other."""
        keyring = self._store.keyring
        first, last = run[0][0], run[-1][0]
        prefix, after = keyring.stream_prefix(stream), keyring.stream_key(stream, first - 1)
        links: list[AuditRecord] = []
        while len(links) < len(run):
            page = await self._store.engine.list_page(
                prefix, after=after, limit=len(run) - len(links)
            )
            links += [open_link(keyring, stream, entry) for entry in page.entries]
            if not page.entries:
                break
            after = page.entries[-1].key
        if [link.sequence for link in links] != list(range(first, last + 1)):
            await self._store.barrier()
            checkpoint = checkpoint_of(self._store)
            if checkpoint is not None and checkpoint.revision >= run[0][1]:
                raise Unavailable("the audit was trimmed while it was read; ask again")
            raise AuditChainBroken(f"links of {stream} are missing")
        return [Placed(position, link) for (_, position), link in zip(run, links, strict=True)]


def _runs(places: Sequence[tuple[int, int]]) -> Iterator[Sequence[tuple[int, int]]]:
    """Yield stretches of (sequence, position) without a gap between sequences."""
    start = 0
    for at in range(1, len(places) + 1):
        if at == len(places) or places[at][0] != places[at - 1][0] + 1:
            yield places[start:at]
            start = at
