"""Files that are either the old or the new content after any crash, and readable by the agent
alone.

Owns the write sequence (temporary file, fsync, rename, fsync of the directory) and the check of the
directory. Never for a secret's value. Source: rename(2), fsync(2).
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.protocol.errors import AlreadyExists, InvalidRequest

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


def make_private(directory: Path) -> None:
    """Create `directory` with mode 0700, or raise InvalidRequest if it is open to others."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise InvalidRequest(
            f"{directory} must belong to uid {os.geteuid()} with mode 0700; fix it or name another"
        )


def write(path: Path, content: bytes) -> None:
    """Replace `path` by `content` (mode 0600), durably."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, _CREATE_FLAGS, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    temporary.rename(path)
    _sync(path.parent)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a data directory: two agents would each renew the other out.

    Raises AlreadyExists while another process holds it.
    """
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyExists(f"another agent uses {directory}; stop it first") from None
        yield
    finally:
        os.close(descriptor)


def read(path: Path) -> bytes | None:
    """Return the content of `path`, or None if there is no such file."""
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def remove(path: Path) -> None:
    """Remove `path` if it is there, durably."""
    path.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, _DIRECTORY_FLAGS)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
