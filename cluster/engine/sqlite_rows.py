"""The rows of the SQLite store: schema, and the statements inside one transaction.

Owns how a key's history is laid out; transactions and files are `sqlite_file`'s. Every state of a
key is a row that holds over the revisions [revision, superseded); compaction removes rows that no
state at or above the compacted revision sees.
"""

import sqlite3

from cluster.engine.limits import prefix_end
from cluster.engine.seam import MAX_KEY_BYTES, Absent, Compare, Entry, Held, Operation, Put

ABOVE_ALL = b"\xff" * (MAX_KEY_BYTES + 1)

SCHEMA = """
CREATE TABLE state (one INTEGER PRIMARY KEY CHECK (one = 1), format INTEGER NOT NULL,
                    revision INTEGER NOT NULL, compacted INTEGER NOT NULL,
                    opening INTEGER NOT NULL);
INSERT INTO state VALUES (1, 1, 1, 1, 0);
CREATE TABLE record (revision INTEGER NOT NULL, superseded INTEGER, created INTEGER NOT NULL,
                     deleted INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL);
CREATE UNIQUE INDEX record_now ON record (key) WHERE superseded IS NULL;
CREATE UNIQUE INDEX record_then ON record (key, revision);
CREATE INDEX record_order ON record (revision);
CREATE INDEX record_old ON record (superseded) WHERE superseded IS NOT NULL;
CREATE TABLE request (id BLOB PRIMARY KEY, revision INTEGER, opening INTEGER NOT NULL,
                      noted_s REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX request_age ON request (opening, noted_s);
CREATE TABLE tombstone (one INTEGER PRIMARY KEY CHECK (one = 1), text TEXT NOT NULL);
CREATE TABLE duty (name BLOB PRIMARY KEY, holder TEXT NOT NULL,
                   revision INTEGER NOT NULL) WITHOUT ROWID;
"""


def bounds(prefix: bytes) -> tuple[bytes, bytes]:
    """Return the first key under a prefix and one above all of them."""
    return prefix, prefix_end(prefix) or ABOVE_ALL


def now(db: sqlite3.Connection, key: bytes) -> Entry | None:
    """Return the present state of a key."""
    row = db.execute(
        "SELECT key, value, created, revision FROM record WHERE key = ? AND superseded IS NULL",
        (key,),
    ).fetchone()
    return None if row is None else Entry(*row)


def met(db: sqlite3.Connection, compare: Compare) -> Entry | None:
    """Return what a compare looks at now."""
    if not isinstance(compare, Held):
        return now(db, compare.key)
    row = db.execute("SELECT holder, revision FROM duty WHERE name = ?", (compare.key,)).fetchone()
    return None if row is None else Entry(compare.key, row[0].encode(), row[1], row[1])


def holds(compare: Compare, entry: Entry | None) -> bool:
    """Return whether a compare holds for what it met."""
    if isinstance(compare, Absent):
        return entry is None
    return entry is not None and entry.mod_revision == compare.mod_revision


def apply(db: sqlite3.Connection, operation: Operation, revision: int) -> None:
    """End the key's present state and, unless it was absent and stays so, begin the next."""
    before = now(db, operation.key)
    if before is not None:
        db.execute(
            "UPDATE record SET superseded = ? WHERE key = ? AND superseded IS NULL",
            (revision, operation.key),
        )
    insert = "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?)"
    if isinstance(operation, Put):
        created = revision if before is None else before.create_revision
        row = (revision, None, created, 0, operation.key, operation.value)
        db.execute(insert, row)
    elif before is not None:
        # a removal is seen by watches only: it holds for no revision
        db.execute(insert, (revision, revision, 0, 1, operation.key, b""))
