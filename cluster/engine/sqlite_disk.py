"""The SQLite store on its disk: one opener, narrow modes, durable names and commits.

Owns files and connections, no statement about records. Source: sqlite.org/wal.html,
sqlite.org/howtocorrupt.html.
"""

import contextlib
import fcntl
import os
import sqlite3
from pathlib import Path

from cluster.protocol.errors import Unavailable

PAGE_BYTES = 4096


def lock(path: Path) -> int:
    """Lock a file beside the store: closing the store itself would drop SQLite's own locks."""
    handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise Unavailable("another process has the store open; stop that manager first") from None
    return handle


def create(path: Path) -> None:
    """Make the file before SQLite does, in its final mode; the log inherits it."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)


def sync_directory(directory: Path) -> None:
    """Make the files' names durable, not only their contents."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection whose commits are on the disk when they return."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    db.execute(f"PRAGMA page_size = {PAGE_BYTES:d}")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA temp_store = MEMORY")
    db.execute("PRAGMA cell_size_check = ON")
    return db


def give_up(db: sqlite3.Connection) -> None:
    """End whatever transaction is open."""
    with contextlib.suppress(sqlite3.Error):
        if db.in_transaction:
            db.execute("ROLLBACK")
