"""The embedded engine: one manager, one SQLite file, nothing to install.

Owns the threads around `SqliteFile` and the waiting (watches, campaigns). One thread writes, so
writes need no lock; one reads. Holds to the same words as etcd (`seam`); with a single process a
quorum is the disk. Source: ADR 0002.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from sqlite3 import sqlite_version
from typing import Self, TypeVar

import structlog

from cluster.engine.limits import check_key, check_request_id, check_transaction
from cluster.engine.seam import (
    PAGE_SIZE,
    Cancelled,
    Committed,
    Compare,
    EngineMember,
    EngineStatus,
    Entry,
    Held,
    Leadership,
    Operation,
    Outcome,
    OutcomeUnknown,
    Page,
    WatchBatch,
)
from cluster.engine.sqlite_disk import PAGE_BYTES
from cluster.engine.sqlite_file import Broken, SqliteFile
from cluster.protocol.errors import InvalidRequest, Unavailable
from cluster.system import Clock

log = structlog.get_logger()

Result = TypeVar("Result")

QUOTA_BYTES = 1 << 30
LOOK_AGAIN_S = 30.0
"""How long a waiter trusts that it is woken."""


class SqliteEngine:
    """An `Engine` over one file; `open` makes it."""

    def __init__(self, file: SqliteFile, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._write_thread = ThreadPoolExecutor(1, "store-write")
        self._read_thread = ThreadPoolExecutor(1, "store-read")
        self._changed = asyncio.Event()
        self._closed = False
        self._held: set[_Duty] = set()

    @classmethod
    async def open(cls, path: Path, clock: Clock, *, quota_bytes: int = QUOTA_BYTES) -> Self:
        """Open a store, making it when there is none; its directory must exist.

        Raises Unavailable while another process has it open, IntegrityError for a format from
        elsewhere.
        """
        opened_s = clock.boottime_s()
        file = await asyncio.to_thread(
            lambda: SqliteFile(path, quota_bytes=quota_bytes, opened_s=opened_s)
        )
        return cls(file, clock)

    async def _write(self, work: Callable[[], Result]) -> Result:
        """Run work on the writing thread; waiters are woken even when the caller was cancelled."""
        self._check_open()
        loop = asyncio.get_running_loop()

        def work_and_wake() -> Result:
            before = self._file.revision
            try:
                return work()
            finally:
                if self._file.revision != before:
                    with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                        loop.call_soon_threadsafe(self._wake)

        return await loop.run_in_executor(self._write_thread, work_and_wake)

    async def _read(self, work: Callable[[], Result]) -> Result:
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._read_thread, work)

    async def _change(self, work: Callable[[], Result]) -> Result:
        """Run work that repeats safely: a broken disk is Unavailable, not an unknown outcome."""
        try:
            return await self._write(work)
        except Broken as broken:
            raise Unavailable(self._unknown(broken).reason) from None

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the storage engine is closed; restart the manager")

    def _wake(self) -> None:
        """Let every waiter look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self, changed: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(LOOK_AGAIN_S):
                await changed.wait()
        except TimeoutError:
            return

    async def transact(
        self, request_id: bytes, compares: Sequence[Compare], operations: Sequence[Operation]
    ) -> Outcome:
        """See `Engine.transact`."""
        check_transaction(request_id, compares, operations)
        now_s = self._clock.boottime_s()
        try:
            return await self._write(
                lambda: self._file.transact(request_id, compares, operations, now_s)
            )
        except Broken as broken:
            return self._unknown(broken)

    @staticmethod
    def _unknown(broken: Broken) -> OutcomeUnknown:
        log.error("engine.disk_failed", reason=str(broken))
        return OutcomeUnknown("the disk failed; check it and restart the manager")

    async def cancel(self, request_id: bytes) -> Committed | Cancelled | OutcomeUnknown:
        """See `Engine.cancel`."""
        check_request_id(request_id)
        now_s = self._clock.boottime_s()
        try:
            return await self._write(lambda: self._file.cancel(request_id, now_s))
        except Broken as broken:
            return self._unknown(broken)

    async def read(self, key: bytes, *, linearizable: bool = True) -> Entry | None:
        """See `Engine.read`; one process always reads its own last write."""
        del linearizable
        check_key(key)
        return await self._read(lambda: self._file.read(key))

    async def list_page(
        self,
        prefix: bytes,
        *,
        after: bytes | None = None,
        at_revision: int | None = None,
        limit: int = PAGE_SIZE,
        linearizable: bool = True,
    ) -> Page:
        """See `Engine.list_page`."""
        del linearizable
        return await self._read(lambda: self._file.list_page(prefix, after, at_revision, limit))

    def watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[WatchBatch]:
        """See `Engine.watch`."""
        if from_revision < 1:
            raise InvalidRequest("a watch starts at revision 1 or later")
        return self._watch(prefix, from_revision)

    async def _watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[WatchBatch]:
        following = from_revision
        while True:
            changed = self._changed  # taken before the look, so that no commit slips between
            look = partial(self._file.changes, prefix, following)
            batches, following = await self._read(look)
            for batch in batches:
                yield batch
            if not batches:
                await self._wait(changed)

    async def barrier(self) -> int:
        """See `Engine.barrier`: behind every write that was handed over before."""
        return await self._write(lambda: self._file.revision)

    async def campaign(self, name: str, holder: str, ttl_s: float) -> Leadership:
        """See `Engine.campaign`; a duty ends with the process, so `ttl_s` is not needed."""
        del ttl_s
        key = name.encode()
        check_key(key)
        while True:
            changed = self._changed
            taking = asyncio.ensure_future(self._change(lambda: self._file.take_duty(key, holder)))
            try:
                revision = await asyncio.shield(taking)
            except asyncio.CancelledError:
                if (revision := await taking) is not None:
                    await self.give_up(_Duty(self, Held(key, revision)))
                raise
            if revision is not None:
                duty = _Duty(self, Held(key, revision))
                self._held.add(duty)
                return duty
            await self._wait(changed)

    async def give_up(self, duty: "_Duty") -> None:
        """Remove a duty's key and let the next in."""
        self._held.discard(duty)
        await self._write(lambda: self._file.drop_duty(duty.guard.key, duty.guard.mod_revision))
        self._wake()

    async def holders(self) -> dict[str, str]:
        """See `Engine.holders`."""
        return await self._read(self._file.holders)

    async def compact(self, revision: int) -> None:
        """See `Engine.compact`."""
        await self._change(lambda: self._file.compact(revision))
        self._wake()

    async def recover_space(self) -> None:
        """See `Engine.recover_space`: forgets all history, then gives the free pages back."""
        await self._change(lambda: self._file.compact(self._file.revision))
        await self._change(self._file.shrink)
        self._wake()

    async def retire(self, text: str) -> None:
        """Commit for ever that this store moved to where `text` says; see `tombstone_of`."""
        await self._change(lambda: self._file.retire(text))

    async def status(self) -> EngineStatus:
        """See `Engine.status`."""
        size = await self._read(self._file.size_bytes)
        quota = self._file.quota_pages * PAGE_BYTES
        return EngineStatus(
            kind="sqlite",
            version=sqlite_version,
            members=(EngineMember(1, "local", "", is_learner=False),),
            leader="local",
            revision=self._file.revision,
            size_bytes=size,
            quota_bytes=quota,
            alarms=("no space",) if size >= quota else (),
        )

    async def close(self) -> None:
        """See `Engine.close`. Work already handed to the threads is finished first."""
        if self._closed:
            return
        self._closed = True
        for duty in self._held:
            duty.end()
        self._wake()
        await asyncio.to_thread(self._write_thread.shutdown)
        await asyncio.to_thread(self._read_thread.shutdown)
        await asyncio.to_thread(self._file.close)


class _Duty:
    """A duty held in this process."""

    def __init__(self, engine: SqliteEngine, guard: Held) -> None:
        self._engine = engine
        self._guard = guard
        self._ended = asyncio.Event()

    @property
    def guard(self) -> Held:
        """The compare that fails once the duty was given up."""
        return self._guard

    def end(self) -> None:
        """Tell whoever waits that the duty is over."""
        self._ended.set()

    async def lost(self) -> None:
        """Return when the duty was given up or the engine closed."""
        await self._ended.wait()

    async def resign(self) -> None:
        """Give the duty up at once."""
        self.end()
        await self._engine.give_up(self)
