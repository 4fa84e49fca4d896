"""Whether a file or directory is what root, or the manager's user, put there."""

import os
import stat
from pathlib import Path
from typing import Final

from cluster.protocol.errors import HookFailed

_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def check_owned(path: Path, what: str) -> os.stat_result:
    """Return the status of a file that nobody but root and this user could have written.

    Raises HookFailed. A symbolic link is refused: it leads out of what was checked.
    """
    try:
        found = path.lstat()
    except OSError as error:
        raise HookFailed(f"{what} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise HookFailed(f"{what} is not a regular file; links are not followed")
    check_mode(found, what)
    return found


def check_mode(found: os.stat_result, what: str) -> None:
    """Raise HookFailed if others could change it."""
    check_owner(found, what)
    if found.st_mode & _WRITABLE_BY_OTHERS:
        raise HookFailed(f"{what} is writable by others; run `chmod go-w` on it")


def check_owner(found: os.stat_result, what: str) -> None:
    """Raise HookFailed unless it belongs to root or to this user."""
    if found.st_uid not in {0, os.geteuid()}:
        raise HookFailed(f"{what} belongs neither to root nor to the manager's user")
