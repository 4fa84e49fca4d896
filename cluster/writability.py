"""Whether this manager can put a record into the store now: found out by doing it.

A barrier alone would not tell: a full disk reads well. Each look commits one small write of this
manager's own and waits until the view shows it, as a receipt has to be before anything is issued.
Readiness follows it at once; duties are given up only when it stays away, so that one slow moment
does not move them.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final

import structlog

from cluster.engine.seam import REQUEST_ID_SIZE, Committed, Engine, Put
from cluster.protocol.errors import ClusterError, StorageFull
from cluster.protocol.ids import ManagerId
from cluster.store.sealed_store import SealedStore
from cluster.system import Clock, Entropy

log = structlog.get_logger(__name__)

LOOK_S: Final = 3.0
GIVE_UP_S: Final = 8.0
"""Longer than one look may take with the pause before it."""
NO_QUORUM: Final = "the record cannot be written: no quorum"
FULL: Final = "the record cannot be written: the engine is full"
BEHIND: Final = "the record cannot be written: this manager does not see what it wrote"
ALARM: Final = "the record cannot be written: the engine raised an alarm"
FAULTY: Final = "the record cannot be written: the engine refuses"
_NO_SPACE: Final = ("NOSPACE", "no space")
"""How the engines' alarms say so."""


@dataclass(slots=True)
class Writability:
    """What the last look found."""

    engine: Engine
    store: SealedStore
    manager_id: ManagerId
    clock: Clock
    entropy: Entropy
    reason: str = ""
    """Why no record can be written; empty while one can."""
    _well_s: float = field(init=False)
    _key: bytes = field(init=False)

    def __post_init__(self) -> None:
        self._well_s = self.clock.monotonic_s()
        self._key = self.store.keyring.stream_key(f"writable/{self.manager_id}", 0)

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Write once and take note."""
        before, self.reason = self.reason, await self._try()
        if not self.reason:
            self._well_s = self.clock.monotonic_s()
        if self.reason != before:
            event = log.warning if self.reason else log.info
            event("store.writability", writable=not self.reason, reason=self.reason)

    def is_lost(self) -> bool:
        """Return whether it has been impossible for so long that others should take the duties."""
        return bool(self.reason) and self.clock.monotonic_s() - self._well_s >= GIVE_UP_S

    async def _try(self) -> str:
        reason = NO_QUORUM
        try:
            async with asyncio.timeout(LOOK_S):
                status = await self.engine.status()
                if status.alarms:
                    return FULL if _is_full(status.alarms) else ALARM
                outcome = await self.engine.transact(
                    self.entropy.token(REQUEST_ID_SIZE), (), (Put(self._key, b"\0"),)
                )
                if not isinstance(outcome, Committed):
                    return NO_QUORUM
                reason = BEHIND
                await self.store.barrier()
        except StorageFull:
            return FULL
        except TimeoutError:
            return reason
        except ClusterError as error:
            return reason if error.retryable else FAULTY
        return ""


def _is_full(alarms: tuple[str, ...]) -> bool:
    return any(words in alarm for alarm in alarms for words in _NO_SPACE)
