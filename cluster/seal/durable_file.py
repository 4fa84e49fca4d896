"""Small files that are either the old or the new, whole, whatever happens in between.

Owns the order of write, flush and rename, and the mode 0600. Must only be given ciphertext: these
files are on disk. One process writes a file at a time. Source: rename(2), fsync(2).
"""

import os
from pathlib import Path

from cluster.protocol.errors import AlreadyExists, IntegrityError, NotFound

_MODE = 0o600


def create(path: Path, content: bytes) -> None:
    """Write a file that must not exist yet; it is durable on return.

    Raises AlreadyExists, and OSError where the disk refuses.
    """
    temporary = _write_temporary(path, content)
    try:
        # A link, unlike a rename, never replaces.
        path.hardlink_to(temporary)
    except FileExistsError:
        raise AlreadyExists(f"{path} exists already; move it away first") from None
    finally:
        temporary.unlink()
    _flush_directory(path.parent)


def replace(path: Path, content: bytes) -> None:
    """Write a file in place of the one that is there; it is durable on return.

    Raises OSError where the disk refuses; the old file stays then.
    """
    temporary = _write_temporary(path, content)
    temporary.replace(path)
    _flush_directory(path.parent)


def read(path: Path, size_limit: int) -> bytes:
    """Return the content; raise NotFound, or IntegrityError above `size_limit` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(size_limit + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no {path}; run `strongroom init` or `strongroom join`") from None
    if len(content) > size_limit:
        raise IntegrityError(f"{path} is larger than any file that was written there")
    return content


def _write_temporary(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # what a crash may have left
    # O_EXCL does not follow a link that somebody put there.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
