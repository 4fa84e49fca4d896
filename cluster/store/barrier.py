"""The barrier: a revision behind every write acknowledged anywhere before the call, shown by this
manager's view.

Callers that arrive while a round runs share the next one: a round that had begun before they asked
proves nothing to them. A transaction of this manager's own that was sent after they asked proves as
much as a round: the engine orders all transactions, whatever was acknowledged before it was sent is
behind it in that order, and its revision is above theirs. So whoever has just committed needs no
round beside it (`moment`).
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from cluster.engine.seam import REQUEST_ID_SIZE, Committed, Engine, Put
from cluster.protocol.errors import NoQuorum, StoreRolledBack, Unavailable
from cluster.store.view import EVERYTHING, View
from cluster.system import Clock, Entropy

BARRIER_S: Final = 10.0
GRACE_S: Final = 0.05
"""How long the watch is given to bring the revision by itself; it usually takes a millisecond."""


FRESH_S: Final = 1.0
"""How long after its sending a transaction serves as a barrier: a manager that was stopped or met
an election meanwhile asks the quorum again, so that nothing is decided from what it knew before."""


@dataclass(frozen=True, slots=True)
class Sending:
    """A transaction on its way."""

    number: int
    at_s: float
    """On the clock that includes sleep."""
    seen: int
    """What the view showed when it was sent."""


class OwnCommits:
    """The last of this manager's own transactions that was committed, as a barrier.

    Numbers count sendings: one that is higher than the count was when somebody asked was sent after
    he asked.
    """

    def __init__(self, view: View, clock: Clock) -> None:
        self._view = view
        self._clock = clock
        self._sent = 0
        self._last = Sending(0, 0.0, 0)
        self._revision = 0

    @property
    def sent(self) -> int:
        """How many transactions were sent so far."""
        return self._sent

    def sending(self) -> Sending:
        """Note that a transaction is sent now."""
        self._sent += 1
        return Sending(self._sent, self._clock.boottime_s(), self._view.revision)

    def committed(self, sending: Sending, revision: int) -> None:
        """Note a transaction's revision; raise StoreRolledBack if it is not a new one."""
        if revision <= sending.seen:
            raise went_back(self._view)
        if sending.number > self._last.number:
            self._last, self._revision = sending, revision

    def since(self, moment: int) -> tuple[Sending, int] | None:
        """Return a transaction sent after `moment` and within `FRESH_S`, and its revision."""
        is_proof = self._last.number > moment and self.is_fresh(self._last)
        return (self._last, self._revision) if is_proof else None

    def is_fresh(self, sending: Sending) -> bool:
        """Return whether a transaction was sent within `FRESH_S`."""
        return self._clock.boottime_s() - sending.at_s < FRESH_S


def went_back(view: View) -> StoreRolledBack:
    """Report an engine restored from an older copy: its watch would wait for the future in
    silence."""
    view.fault(EVERYTHING, "the engine's revision went back")
    return StoreRolledBack()


class Barrier:
    """Rounds of barriers of one manager."""

    def __init__(
        self, engine: Engine, view: View, commits: OwnCommits, tick_key: bytes, entropy: Entropy
    ) -> None:
        self._engine = engine
        self._view = view
        self._commits = commits
        self._tick_key = tick_key
        self._entropy = entropy
        self._running: asyncio.Task[int] | None = None
        self._next: asyncio.Task[int] | None = None

    async def wait(self, moment: int | None = None) -> int:
        """Return the revision; raise NoQuorum without a majority, Unavailable if the view lags.

        `moment`: when the caller began to ask, as `OwnCommits.sent` counts; by default now.
        """
        if moment is not None and (proof := self._commits.since(moment)) is not None:
            sending, revision = proof
            await self._view.wait_for(revision, BARRIER_S)
            # The view may have taken its time: what was fresh before proves nothing by now.
            if self._commits.is_fresh(sending):
                return revision
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
                    raise went_back(self._view)
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
