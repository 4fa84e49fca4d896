"""Refusals on their way into the audit, coalesced so that nobody can fill the store.

Equal refusals (caller, action, kind of resource) of one window become one entry with a count. The
table has a fixed size, and a minute has a fixed number of entries; what is over goes into one
summary entry per window. Nothing here decides anything. Source: DESIGN 5.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from datetime import timedelta

import msgspec
import structlog

from cluster.protocol.errors import ClusterError, Unavailable
from cluster.store.records import AuditEntry
from cluster.store.sealed_store import SealedStore
from cluster.store.steps import Write
from cluster.system import Clock

log = structlog.get_logger(__name__)

WINDOW = timedelta(seconds=10)
TABLE_SIZE = 256
"""Different refusals held at once; more are only counted."""
ENTRIES_PER_MINUTE = 60
LAST_FLUSH_S = 2.0
"""What a manager that stops waits for its last refusals to be on record."""
SUMMARY_CALLER = "many"
SUMMARY_ACTION = "refusals.summary"

_Key = tuple[str, str, str]


class Refusals:
    """Gathers refusals in memory and hands them over window by window."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._table: dict[_Key, AuditEntry] = {}
        self._over = 0
        self._minute_started_s = clock.monotonic_s()
        self._written_this_minute = 0

    def note(self, entry: AuditEntry) -> None:
        """Count one refusal. Takes memory for `TABLE_SIZE` different ones at most."""
        key = (entry.caller, entry.action, entry.resource.partition("/")[0])
        held = self._table.get(key)
        if held is not None:
            self._table[key] = msgspec.structs.replace(held, count=held.count + entry.count)
        elif len(self._table) < TABLE_SIZE:
            self._table[key] = entry
        else:
            self._over += entry.count

    def take(self) -> tuple[AuditEntry, ...]:
        """Return the entries of the window that ends now, and begin a new one."""
        entries = list(self._table.values())
        over, self._over = self._over, 0
        self._table.clear()
        allowance = self._allowance()
        over += sum(entry.count for entry in entries[allowance:])
        entries = entries[:allowance]
        self._written_this_minute += len(entries)
        if over:
            entries.append(self._summary(over))
        return tuple(entries)

    def waiting(self) -> int:
        """Return how many refusals are not on record yet."""
        return self._over + sum(entry.count for entry in self._table.values())

    async def flush(self, store: SealedStore) -> None:
        """Commit what was gathered; what cannot be committed now is gathered again."""
        entries = self.take()
        if not entries:
            return
        try:
            await store.commit(Write(steps=(), audit=entries))
        except Unavailable as error:
            log.warning("refusals.delayed", entries=len(entries), code=error.code)
            self._note_again(entries)
        except asyncio.CancelledError:
            # Whether it was committed is not known: twice on record is better than not at all.
            self._note_again(entries)
            raise

    async def run(self, store: SealedStore) -> None:
        """Flush once a window, until cancelled, and once more then."""
        try:
            while True:
                await asyncio.sleep(WINDOW.total_seconds())
                await self.flush(store)
        finally:
            with contextlib.suppress(TimeoutError, ClusterError):
                async with asyncio.timeout(LAST_FLUSH_S):
                    await self.flush(store)

    def _note_again(self, entries: Iterable[AuditEntry]) -> None:
        for entry in entries:
            self.note(entry)

    def _allowance(self) -> int:
        now_s = self._clock.monotonic_s()
        if now_s - self._minute_started_s >= timedelta(minutes=1).total_seconds():
            self._minute_started_s, self._written_this_minute = now_s, 0
        return max(0, ENTRIES_PER_MINUTE - self._written_this_minute)

    def _summary(self, count: int) -> AuditEntry:
        return AuditEntry(
            at=self._clock.now().timestamp(),
            caller=SUMMARY_CALLER,
            action=SUMMARY_ACTION,
            resource="",
            allowed=False,
            detail="refusals over the limit of the audit",
            count=count,
        )
