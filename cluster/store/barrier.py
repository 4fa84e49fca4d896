"""The barrier: a revision behind every write acknowledged anywhere before the call, shown by this
manager's view.

Callers that arrive while a round runs share the next one: a round that had begun before they asked
proves nothing to them.
"""

import asyncio
from typing import Final

from cluster.engine.seam import REQUEST_ID_SIZE, Committed, Engine, Put
from cluster.protocol.errors import NoQuorum, StoreRolledBack, Unavailable
from cluster.store.view import EVERYTHING, View
from cluster.system import Entropy

BARRIER_S: Final = 10.0
GRACE_S: Final = 0.05
"""How long the watch is given to bring the revision by itself; it usually takes a millisecond."""


class Barrier:
    """Rounds of barriers of one manager."""

    def __init__(self, engine: Engine, view: View, tick_key: bytes, entropy: Entropy) -> None:
        self._engine = engine
        self._view = view
        self._tick_key = tick_key
        self._entropy = entropy
        self._running: asyncio.Task[int] | None = None
        self._next: asyncio.Task[int] | None = None

    async def wait(self) -> int:
        """Return the revision; raise NoQuorum without a majority, Unavailable if the view lags."""
        if self._next is None:
            self._next = asyncio.create_task(self._round(self._running), name="store-barrier")
            self._next.add_done_callback(_retrieve)
        # Shielded: the others that share the round still need it when one caller gives up.
        return await asyncio.shield(self._next)

    async def tick(self) -> int:
        """Commit a write that tells nothing, for its revision: every watch brings it.

        Raises NoQuorum.
        """
        tick = await self._engine.transact(
            self._entropy.token(REQUEST_ID_SIZE), (), (Put(self._tick_key, b"\0"),)
        )
        if not isinstance(tick, Committed):
            raise NoQuorum
        return tick.revision

    async def close(self) -> None:
        """End the rounds."""
        rounds = [task for task in (self._running, self._next) if task is not None]
        for task in rounds:
            task.cancel()
        await asyncio.gather(*rounds, return_exceptions=True)

    async def _round(self, before: asyncio.Task[int] | None) -> int:
        if before is not None:
            await asyncio.wait([before])  # ends by its own timeout
        self._running, self._next = self._next, None
        try:
            async with asyncio.timeout(BARRIER_S):
                seen = self._view.revision
                revision = await self._engine.barrier()
                if revision < seen:
                    # Restored from an older copy: its watch would wait for the future in silence.
                    self._view.fault(EVERYTHING, "the engine's revision went back")
                    raise StoreRolledBack
                await self._show(revision)
        except TimeoutError:
            raise NoQuorum from None
        return revision

    async def _show(self, revision: int) -> None:
        """Wait until the view shows a revision.

        A revision that changed none of our keys (a duty taken, a request id expired) is never
        brought by the watch; a write of our own behind it is.
        """
        try:
            await self._view.wait_for(revision, GRACE_S)
        except Unavailable:
            await self._view.wait_for(await self.tick(), BARRIER_S)


def _retrieve(task: asyncio.Task[int]) -> None:
    """Look at a round's error, so that it is not reported as lost when every caller gave up."""
    if not task.cancelled():
        task.exception()
