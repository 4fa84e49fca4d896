"""An engine whose transactions and barriers are timed; everything else is passed through.

Owns nothing of the engine: whoever made it closes it.
"""

from collections.abc import AsyncIterator, Sequence

from cluster.engine.seam import (
    PAGE_SIZE,
    Cancelled,
    Committed,
    Compare,
    CompareFailed,
    Engine,
    EngineStatus,
    Entry,
    Leadership,
    Operation,
    Outcome,
    OutcomeUnknown,
    Page,
    WatchBatch,
)
from cluster.metrics import Metrics
from cluster.system import Clock


class MeasuredEngine:
    """An `Engine` around another."""

    def __init__(self, engine: Engine, metrics: Metrics, clock: Clock) -> None:
        self._engine = engine
        self._metrics = metrics
        self._clock = clock

    async def transact(
        self, request_id: bytes, compares: Sequence[Compare], operations: Sequence[Operation]
    ) -> Outcome:
        """Pass on, and count by outcome."""
        started_s = self._clock.monotonic_s()
        outcome = "failed"
        try:
            answer = await self._engine.transact(request_id, compares, operations)
            outcome = _NAMES[type(answer)]
        finally:
            took_s = self._clock.monotonic_s() - started_s
            self._metrics.transaction(outcome, len(operations), took_s)
        return answer

    async def barrier(self) -> int:
        """Pass on, and count."""
        started_s = self._clock.monotonic_s()
        outcome = "failed"
        try:
            revision = await self._engine.barrier()
            outcome = "done"
        finally:
            self._metrics.barrier(outcome, self._clock.monotonic_s() - started_s)
        return revision

    async def cancel(self, request_id: bytes) -> Committed | Cancelled | OutcomeUnknown:
        """Pass on."""
        return await self._engine.cancel(request_id)

    async def read(self, key: bytes, *, linearizable: bool = True) -> Entry | None:
        """Pass on."""
        return await self._engine.read(key, linearizable=linearizable)

    async def list_page(
        self,
        prefix: bytes,
        *,
        after: bytes | None = None,
        at_revision: int | None = None,
        limit: int = PAGE_SIZE,
        linearizable: bool = True,
    ) -> Page:
        """Pass on."""
        return await self._engine.list_page(
            prefix, after=after, at_revision=at_revision, limit=limit, linearizable=linearizable
        )

    def watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[WatchBatch]:
        """Pass on."""
        return self._engine.watch(prefix, from_revision)

    async def campaign(self, name: str, holder: str, ttl_s: float) -> Leadership:
        """Pass on."""
        return await self._engine.campaign(name, holder, ttl_s)

    async def holders(self) -> dict[str, str]:
        """Pass on."""
        return await self._engine.holders()

    async def compact(self, revision: int) -> None:
        """Pass on."""
        await self._engine.compact(revision)

    async def recover_space(self) -> None:
        """Pass on."""
        await self._engine.recover_space()

    async def status(self) -> EngineStatus:
        """Pass on."""
        return await self._engine.status()

    async def close(self) -> None:
        """Do nothing: the engine is its maker's to close."""


_NAMES = {Committed: "committed", CompareFailed: "refused", OutcomeUnknown: "unknown"}
