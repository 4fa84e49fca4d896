"""The SQLite engine: the conformance suite, and what only a file can get wrong."""

import asyncio
import contextlib
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cluster.engine.seam import (
    REQUEST_TTL_S,
    Absent,
    Cancelled,
    Committed,
    CompareFailed,
    OutcomeUnknown,
    Put,
)
from cluster.engine.sqlite import SqliteEngine
from cluster.engine.sqlite_file import RETAINED_REVISIONS
from cluster.protocol.errors import Compacted, IntegrityError, StorageFull, Unavailable
from tests.support.clock import ManualClock
from tests.unit.engine.conformance import (
    SMALL_QUOTA_BYTES,
    EngineConformance,
    commit,
    present,
    request_id,
    take,
)

WRITER = """
import asyncio, sys
from pathlib import Path
from cluster.engine.seam import Put
from cluster.engine.sqlite import SqliteEngine
from cluster.system import SystemClock

async def main():
    engine = await SqliteEngine.open(Path(sys.argv[1]), SystemClock())
    for number in range(100_000):
        await engine.transact(number.to_bytes(16, "big"), [], [Put(b"%08d" % number, b"v" * 900)])
        print(number, flush=True)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def opened(
    path: Path, clock: ManualClock, quota_bytes: int = 1 << 30
) -> AsyncIterator[SqliteEngine]:
    """Open and close an engine."""
    engine = await SqliteEngine.open(path, clock, quota_bytes=quota_bytes)
    try:
        yield engine
    finally:
        await engine.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def engine(path: Path, clock: ManualClock) -> AsyncIterator[SqliteEngine]:
    async with opened(path, clock) as engine:
        yield engine


@pytest.fixture
async def small_engine(path: Path, clock: ManualClock) -> AsyncIterator[SqliteEngine]:
    async with opened(path, clock, SMALL_QUOTA_BYTES) as engine:
        yield engine


class TestSqliteConformance(EngineConformance):
    """The suite every engine passes."""


async def test_reopened_store_keeps_values_revisions_and_request_ids(
    path: Path, clock: ManualClock
) -> None:
    once = request_id()
    async with opened(path, clock) as engine:
        first = await engine.transact(once, [Absent(b"k")], [Put(b"k", b"v")])
    async with opened(path, clock) as engine:
        assert await engine.transact(once, [Absent(b"k")], [Put(b"k", b"v")]) == first
        assert isinstance(first, Committed)
        assert (await present(engine, b"k")).mod_revision == first.revision
        assert (await commit(engine, Put(b"k", b"w"))).revision > first.revision


async def test_second_opener_is_refused(engine: SqliteEngine, path: Path) -> None:
    with pytest.raises(Unavailable, match="another process has the store open"):
        await SqliteEngine.open(path, ManualClock())
    await commit(engine, Put(b"k", b"v"))


async def test_files_are_readable_by_their_owner_only(engine: SqliteEngine, path: Path) -> None:
    await commit(engine, Put(b"k", b"v"))
    modes = [stat.S_IMODE(file.stat().st_mode) for file in sorted(path.parent.glob("store*"))]
    assert modes == [0o600] * 4  # the store, its lock, its log and the log's index


async def test_a_file_that_is_no_store_is_refused(path: Path, clock: ManualClock) -> None:
    path.write_bytes(b"not a database, " * 512)
    with pytest.raises(IntegrityError):
        await SqliteEngine.open(path, clock)


async def test_a_store_of_another_format_is_refused(path: Path, clock: ManualClock) -> None:
    async with opened(path, clock):
        pass
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE state SET format = 2")
    with pytest.raises(IntegrityError, match="format 2"):
        await SqliteEngine.open(path, clock)


async def test_reopening_voids_campaigns(path: Path, clock: ManualClock) -> None:
    async with opened(path, clock) as engine:
        held = await engine.campaign("placement", "m1", 10)
        waiting = asyncio.ensure_future(held.lost())
    await waiting
    async with opened(path, clock) as engine:
        assert await engine.holders() == {}
        again = await engine.campaign("placement", "m1", 10)
        late = await engine.transact(request_id(), [held.guard], [Put(b"k", b"late")])
        assert isinstance(late, CompareFailed)
        await commit(engine, Put(b"k", b"mine"), compares=[again.guard])


async def test_request_ids_are_kept_for_their_term_and_dropped_after(
    path: Path, clock: ManualClock
) -> None:
    old = request_id()
    async with opened(path, clock) as engine:
        done = await engine.transact(old, [], [Put(b"k", b"1")])
        clock.advance(REQUEST_TTL_S)
        await commit(engine, Put(b"other", b""))
        assert await engine.cancel(old) == done
        clock.advance(1)
        await commit(engine, Put(b"other", b""))
        assert await engine.cancel(old) == Cancelled()


async def test_request_ids_outlive_a_reopening_for_a_whole_term(
    path: Path, clock: ManualClock
) -> None:
    old = request_id()
    async with opened(path, clock) as engine:
        done = await engine.transact(old, [], [Put(b"k", b"1")])
    async with opened(path, ManualClock()) as engine:
        await commit(engine, Put(b"other", b""))
        assert await engine.cancel(old) == done


async def test_history_is_compacted_by_itself(engine: SqliteEngine) -> None:
    first = await commit(engine, Put(b"k", b"first"))
    for _ in range(2 * RETAINED_REVISIONS):
        await commit(engine, Put(b"k", b"v"))
    with pytest.raises(Compacted):
        await take(engine.watch(b"k", first.revision), 1)


async def test_closed_engine_says_so(path: Path, clock: ManualClock) -> None:
    async with opened(path, clock) as engine:
        watching = asyncio.ensure_future(take(engine.watch(b"k", 1), 1))
        await asyncio.sleep(0.01)
    with pytest.raises(Unavailable):
        await watching
    with pytest.raises(Unavailable):
        await engine.read(b"k")


async def test_abandoned_write_still_wakes_watches(engine: SqliteEngine, path: Path) -> None:
    start = await engine.barrier()
    watching = asyncio.ensure_future(take(engine.watch(b"k", start + 1), 1))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        sending = asyncio.ensure_future(engine.transact(request_id(), [], [Put(b"k", b"v")]))
        await asyncio.sleep(0.2)  # the writing thread waits for the blocker now
        sending.cancel()
        await asyncio.wait([sending])
        blocker.execute("ROLLBACK")
    async with asyncio.timeout(20):  # below the time after which a watch looks by itself
        assert (await watching)[0].changes[0].entry.value == b"v"


async def test_a_failed_disk_ends_writing_until_the_store_is_opened_again(
    path: Path, clock: ManualClock
) -> None:
    async with opened(path, clock) as engine:
        kept = await commit(engine, Put(b"k", b"kept"))
        lost = request_id()
        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, usual[1]))
        try:
            outcome = await engine.transact(lost, [], [Put(b"k", bytes(900_000))])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        assert isinstance(outcome, OutcomeUnknown)
        assert isinstance(await engine.transact(lost, [], [Put(b"k", b"")]), OutcomeUnknown)
        assert isinstance(await engine.cancel(lost), OutcomeUnknown)
        with pytest.raises(Unavailable):
            await engine.compact(kept.revision)
        assert (await present(engine, b"k")).value == b"kept"
    async with opened(path, clock) as engine:
        assert await engine.cancel(lost) == Cancelled()
        assert (await commit(engine, Put(b"k", b"new"))).revision > kept.revision


@pytest.mark.needs_root
async def test_a_full_disk_refuses_writes_and_keeps_what_was_acknowledged(
    tmp_path: Path, clock: ManualClock
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "store.db"
        async with opened(path, clock) as engine:
            acknowledged = await _fill_disk(engine)
            assert (await present(engine, b"%08d" % acknowledged)).value == b"v" * 9_000
        async with opened(path, clock) as engine:
            for number in range(acknowledged + 1):
                assert (await present(engine, b"%08d" % number)).value == b"v" * 9_000


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """Mount a disk of 2 MB."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


async def _fill_disk(engine: SqliteEngine) -> int:
    """Write until it is refused; return the last acknowledged number."""
    for number in range(10_000):
        try:
            await commit(engine, Put(b"%08d" % number, b"v" * 9_000))
        except StorageFull:
            return number - 1
    pytest.fail("the disk never filled")


@pytest.mark.parametrize("after", [1, 40, 160])
async def test_acknowledged_writes_survive_kill(path: Path, clock: ManualClock, after: int) -> None:
    writer = subprocess.Popen(  # noqa: ASYNC220  # read line by line until the kill
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) >= after:
            break
    writer.send_signal(signal.SIGKILL)
    rest = writer.stdout.read().split("\n")
    writer.stdout.close()
    writer.wait()
    acknowledged = max([after, *(int(line) for line in rest[:-1] if line)])
    async with opened(path, clock) as engine:
        for number in range(acknowledged + 1):
            assert (await present(engine, b"%08d" % number)).value == b"v" * 900
        again = await engine.transact(bytes(16), [Absent(b"00000000")], [Put(b"x", b"")])
        assert isinstance(again, Committed)
        assert await engine.read(b"x") is None
