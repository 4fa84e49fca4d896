"""The SQLite file behind `SqliteEngine`: transactions and reads, all synchronous.

Owns the file's durability, its transactions and the request ids; knows nothing of asyncio. One
connection writes, one reads, each used by one thread at a time. Source: sqlite.org/wal.html,
sqlite.org/pragma.html.

Traps: a failed fsync may leave frames in the log that a later start replays, so after an
input/output error nothing more is written (`Broken`). A request id that was recorded by an earlier
opening is kept for a whole term from this opening on, since no clock spans both.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster.engine.seam import (
    REQUEST_TTL_S,
    Cancelled,
    Change,
    Committed,
    Compare,
    CompareFailed,
    Entry,
    Operation,
    Page,
    Put,
    WatchBatch,
)
from cluster.engine.sqlite_disk import PAGE_BYTES, connect, create, give_up, lock, sync_directory
from cluster.engine.sqlite_rows import SCHEMA, apply, bounds, holds, met, now
from cluster.protocol.errors import (
    Compacted,
    Conflict,
    IntegrityError,
    InvalidRequest,
    StorageFull,
)

SPARE_PAGES = 256
"""What writes that free space may use above the quota."""
RETAINED_REVISIONS = 1_000
WATCH_ROWS = 256
FORMAT = 1


class Broken(Exception):  # noqa: N818  # never leaves the engine: it becomes an unknown outcome
    """The disk refused a write: what was committed is not known until the file is opened again."""


class SqliteFile:
    """One open store. Raises Unavailable when another process has it open."""

    def __init__(self, path: Path, *, quota_bytes: int, opened_s: float) -> None:
        self.path = path
        self.quota_pages = quota_bytes // PAGE_BYTES
        self._opened_s = opened_s
        self._broken = False
        self._lock = lock(path)
        try:
            create(path)
            self._writer = connect(path)
            self._reader = connect(path)
            if not self._writer.execute("SELECT 1 FROM sqlite_schema").fetchone():
                self._writer.executescript(f"BEGIN; {SCHEMA} COMMIT;")
            self._begin_opening()
            sync_directory(path.parent)
        except sqlite3.Error as error:
            os.close(self._lock)
            raise IntegrityError(f"the store cannot be opened ({error.sqlite_errorname})") from None
        except BaseException:
            os.close(self._lock)
            raise

    def _begin_opening(self) -> None:
        """Count this opening and void the campaigns of earlier ones: their holders are gone."""
        with self._writing(spare=True) as db:
            found = db.execute("SELECT format, revision, compacted, opening FROM state").fetchone()
            if found[0] != FORMAT:
                raise IntegrityError(
                    f"the store has format {found[0]}; this version reads {FORMAT}"
                )
            if db.execute("SELECT 1 FROM tombstone").fetchone():
                raise Conflict("this store was moved to another engine; nothing is served from it")
            self.revision, self.compacted = int(found[1]), int(found[2])
            self._opening = int(found[3]) + 1
            db.execute("UPDATE state SET opening = ?", (self._opening,))
            db.execute("DELETE FROM duty")

    @contextlib.contextmanager
    def _writing(self, *, spare: bool = False) -> Iterator[sqlite3.Connection]:
        """Run one durable transaction; `spare` lets what frees space go above the quota."""
        if self._broken:
            raise Broken("an earlier write failed")
        db = self._writer
        limit = self.quota_pages + (SPARE_PAGES if spare else 0)
        try:
            db.execute(f"PRAGMA max_page_count = {limit:d}")
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except sqlite3.Error as error:
            give_up(db)
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise StorageFull from None
            self._broken = True
            raise Broken(error.sqlite_errorname) from None
        except BaseException:
            give_up(db)
            raise

    def transact(
        self,
        request_id: bytes,
        compares: Sequence[Compare],
        operations: Sequence[Operation],
        now_s: float,
    ) -> Committed | CompareFailed:
        """Apply a transaction once, at the next revision. Raises StorageFull, Broken."""
        spare = not any(isinstance(operation, Put) for operation in operations)
        with self._writing(spare=spare) as db:
            self._forget_requests(db, now_s)
            match self._outcome_of(db, request_id):
                case Committed() as before:
                    return before
                case Cancelled():
                    return CompareFailed(())
                case None:
                    pass
            current = tuple(met(db, compare) for compare in compares)
            if not all(holds(c, entry) for c, entry in zip(compares, current, strict=True)):
                return CompareFailed(current)
            revision = self.revision + 1
            for operation in operations:
                apply(db, operation, revision)
            self._note(db, request_id, revision, now_s)
            self._advance(db, revision)
        self.revision = revision
        self._compact_old()
        return Committed(revision)

    def cancel(self, request_id: bytes, now_s: float) -> Committed | Cancelled:
        """Settle a request id for good. Raises StorageFull, Broken."""
        with self._writing(spare=True) as db:
            known = self._outcome_of(db, request_id)
            if known is None:
                self._note(db, request_id, None, now_s)
        return known or Cancelled()

    def _outcome_of(
        self, db: sqlite3.Connection, request_id: bytes
    ) -> Committed | Cancelled | None:
        found = db.execute("SELECT revision FROM request WHERE id = ?", (request_id,)).fetchone()
        if found is None:
            return None
        return Cancelled() if found[0] is None else Committed(int(found[0]))

    def _note(
        self, db: sqlite3.Connection, request_id: bytes, revision: int | None, now_s: float
    ) -> None:
        row = (request_id, revision, self._opening, now_s)
        db.execute("INSERT INTO request VALUES (?, ?, ?, ?)", row)

    def _forget_requests(self, db: sqlite3.Connection, now_s: float) -> None:
        """Drop a few ids that are older than their term."""
        oldest = now_s - REQUEST_TTL_S
        past = self._opening if self._opened_s < oldest else 0
        db.execute(
            "DELETE FROM request WHERE id IN (SELECT id FROM request WHERE opening < ?"
            " OR (opening = ? AND noted_s < ?) LIMIT 256)",
            (past, self._opening, oldest),
        )

    @staticmethod
    def _advance(db: sqlite3.Connection, revision: int) -> None:
        db.execute("UPDATE state SET revision = ?", (revision,))

    def retire(self, text: str) -> None:
        """Commit for ever that this store moved; `text` says where to. Nothing is written after.

        Raises StorageFull, Broken: whether it is retired is then told by opening it again.
        """
        with self._writing(spare=True) as db:
            db.execute("INSERT INTO tombstone VALUES (1, ?)", (text,))
        self._broken = True

    def take_duty(self, name: bytes, holder: str) -> int | None:
        """Record a holder and return the revision he holds from; None while there is another."""
        with self._writing(spare=True) as db:
            if db.execute("SELECT 1 FROM duty WHERE name = ?", (name,)).fetchone():
                return None
            revision: int = self.revision + 1
            db.execute("INSERT INTO duty VALUES (?, ?, ?)", (name, holder, revision))
            self._advance(db, revision)
        self.revision = revision
        return revision

    def drop_duty(self, name: bytes, revision: int) -> None:
        """Remove a holder, if he is still the one from `revision`."""
        with self._writing(spare=True) as db:
            db.execute("DELETE FROM duty WHERE name = ? AND revision = ?", (name, revision))

    def holders(self) -> dict[str, str]:
        """Return name -> holder."""
        with self._reading() as (db, _, _):
            rows = db.execute("SELECT name, holder FROM duty").fetchall()
        return {name.decode(): holder for name, holder in rows}

    def compact(self, revision: int) -> None:
        """Remove what no state from `revision` on can see. Raises InvalidRequest for the future."""
        if revision > self.revision:
            raise InvalidRequest("cannot compact at a revision that is not there yet")
        if revision <= self.compacted:
            return
        with self._writing(spare=True) as db:
            gone = "DELETE FROM record WHERE superseded <= ? AND revision < ?"
            db.execute(gone, (revision, revision))
            db.execute("UPDATE state SET compacted = ?", (revision,))
        self.compacted = revision

    def _compact_old(self) -> None:
        """Compact when twice the retained revisions gathered; a failure shows at the next write."""
        if self.revision - self.compacted >= 2 * RETAINED_REVISIONS:
            with contextlib.suppress(StorageFull, Broken):
                self.compact(self.revision - RETAINED_REVISIONS)

    def shrink(self) -> None:
        """Give free pages back; a disk without room for the copy is no failure."""
        with contextlib.suppress(sqlite3.OperationalError):
            self._writer.execute(f"PRAGMA max_page_count = {self.quota_pages + SPARE_PAGES:d}")
            self._writer.execute("VACUUM")
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def read(self, key: bytes) -> Entry | None:
        """Return the present state of a key."""
        with self._reading() as (db, _, _):
            return now(db, key)

    def list_page(
        self, prefix: bytes, after: bytes | None, at_revision: int | None, limit: int
    ) -> Page:
        """Return a page of the state at a revision. Raises Compacted, InvalidRequest."""
        with self._reading() as (db, head, compacted):
            at = head if at_revision is None else at_revision
            if at < compacted:
                raise Compacted(compacted)
            if at > head:
                raise InvalidRequest("cannot read at a revision that is not there yet")
            low, high = bounds(prefix)
            # One lower bound: of two SQLite seeks by the first, and reads every page before again.
            if after is not None and after >= low:
                low = after + b"\0"
            rows = db.execute(
                "SELECT key, value, created, revision FROM record"
                " WHERE key >= ? AND key < ? AND revision <= ?"
                " AND (superseded IS NULL OR superseded > ?) AND deleted = 0 ORDER BY key LIMIT ?",
                (low, high, at, at, limit + 1),
            ).fetchall()
        return Page(tuple(Entry(*row) for row in rows[:limit]), at, len(rows) > limit)

    def changes(self, prefix: bytes, from_revision: int) -> tuple[list[WatchBatch], int]:
        """Return the next whole revisions under a prefix, and where to go on. Raises Compacted."""
        with self._reading() as (db, head, compacted):
            if from_revision < compacted:
                raise Compacted(compacted)
            # By itself SQLite takes the index of keys, and every look reads the whole history.
            rows = db.execute(
                "SELECT revision, key, value, created, deleted FROM record INDEXED BY record_order"
                " WHERE key >= ? AND key < ? AND revision >= ? ORDER BY revision, key LIMIT ?",
                (*bounds(prefix), from_revision, WATCH_ROWS),
            ).fetchall()
        if len(rows) == WATCH_ROWS:  # the last revision may go on: it comes whole next time
            head = rows[-1][0] - 1
        batches: dict[int, list[Change]] = {}
        for revision, key, value, created, deleted in rows:
            if revision <= head:
                change = Change(Entry(key, value, created, revision), bool(deleted))
                batches.setdefault(revision, []).append(change)
        return [WatchBatch(r, tuple(changes)) for r, changes in batches.items()], max(
            head + 1, from_revision
        )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[tuple[sqlite3.Connection, int, int]]:
        """Hold one consistent state: the connection, its revision, and what was compacted."""
        db = self._reader
        try:
            db.execute("BEGIN")
            head, compacted = db.execute("SELECT revision, compacted FROM state").fetchone()
            yield db, head, compacted
        except sqlite3.Error as error:
            raise IntegrityError(f"the store cannot be read ({error.sqlite_errorname})") from None
        finally:
            give_up(db)

    def size_bytes(self) -> int:
        """Return the size of the pages in use."""
        pages = self._reader.execute("PRAGMA page_count").fetchone()[0]
        free = self._reader.execute("PRAGMA freelist_count").fetchone()[0]
        return int(pages - free) * PAGE_BYTES

    def close(self) -> None:
        """Close the connections, then let the next opener in."""
        self._reader.close()
        self._writer.close()
        os.close(self._lock)


def tombstone_of(path: Path) -> str | None:
    """Return where a store that is not open moved to; None if it is in use, or not there."""
    if not path.exists():
        return None
    db = connect(path)
    try:
        found = db.execute("SELECT text FROM tombstone").fetchone()
    except sqlite3.OperationalError:
        return None  # a crash came before the tables
    except sqlite3.Error as error:
        raise IntegrityError(f"the store cannot be read ({error.sqlite_errorname})") from None
    finally:
        db.close()
    return None if found is None else str(found[0])
