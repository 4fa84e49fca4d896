"""Taking a service's own values out of what it printed, before that goes anywhere.

A net, not a wall: it finds values as they lie in the service's files, whole, and line by line where
they have several lines. What a program encoded, cut or printed letter by letter passes. Values are
held in memory until other files are in place. Standard library only. Source:
docs/how-to/service-logs.md.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

REDACTED: Final = b"[redacted]"
WITHHELD: Final = b"[withheld: the service's files are gone]"
SHORTEST: Final = 4
"""Shorter values would blot out half of every text, and can be guessed anyway."""
SHORTEST_LINE: Final = 8
MOST_LINES: Final = 200
"""Of one value, the first ones that differ: each costs time with each line printed."""
_MAX_VALUE: Final = 1_048_576
_FRAME: Final = b"-----"
"""Begins the lines that frame a PEM block: they are public."""


class Net:
    """What is looked for in one service's output; remembers which files there were.

    While one of those is gone (a lease that lapsed, a service that was removed) the program may
    know a value that nobody can look for any more.
    """

    def __init__(self, mount: Path) -> None:
        self._mount = mount
        self._set: tuple[str, int] | None = None
        self._names: set[str] = set()
        self._patterns: list[bytes] = []

    def patterns(self) -> Sequence[bytes] | None:
        """Return what to look for, or None while nothing the program prints may be kept."""
        # Read before the files: one published in between is seen by the next look.
        current = _published(self._mount)
        if current is not None and current == self._set:
            return self._patterns
        self._set, self._patterns = None, []
        found = _files(self._mount)
        if current is None or self._names - found.keys():
            return None
        self._names |= found.keys()
        self._patterns = patterns_of(one for values in found.values() for one in values)
        self._set = current
        return self._patterns


def values_in(mount: Path) -> list[bytes]:
    """Return the content of every file in a service's mount, superseded sets included.

    A program may still use what was superseded a moment ago; the agent drops it after a while.
    """
    return list({one for values in _files(mount).values() for one in values})


def redacted(text: bytes, patterns: Sequence[bytes] | None) -> bytes:
    """Return one line of output without what a net finds; nothing of it without a net.

    `patterns`: the longest first.
    """
    if patterns is None:
        return WITHHELD
    if not patterns or len(text) < len(patterns[-1]):
        return text
    for pattern in patterns:
        text = text.replace(pattern, REDACTED)
    return text


def patterns_of(values: Iterable[bytes]) -> list[bytes]:
    """Return what to look for, the longest first: one value may lie within another."""
    found: set[bytes] = set()
    for value in values:
        found.update(one for one in (value, value.strip()) if len(one.strip()) >= SHORTEST)
        lines = (line.strip() for line in value.splitlines())
        telling = (x for x in lines if len(x) >= SHORTEST_LINE and not x.startswith(_FRAME))
        found.update(islice(dict.fromkeys(telling), MOST_LINES))
    return sorted(found, key=lambda one: (-len(one), one))


def _published(mount: Path) -> tuple[str, int] | None:
    """Return what tells the published set from all others; None if there is none."""
    link = mount / "..data"
    try:
        # Both: after all sets were wiped their numbers may come again.
        return str(link.readlink()), link.lstat().st_ino
    except OSError:
        return None


def _files(mount: Path) -> Mapping[str, set[bytes]]:
    """Return the values of each file name, of all sets."""
    found: dict[str, set[bytes]] = {}
    for directory in _generations(mount):
        # Each for itself: a set that is dropped meanwhile must not hide the others.
        with suppress(OSError):
            for entry in os.scandir(directory):
                # Not `..manifest`, which names versions and is no value.
                if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                    with suppress(OSError):
                        found.setdefault(entry.name, set()).add(_content(entry.path))
    return found


def _generations(mount: Path) -> list[str]:
    with suppress(OSError):
        return [
            entry.path
            for entry in os.scandir(mount)
            if entry.name.startswith("..") and entry.is_dir(follow_symlinks=False)
        ]
    return []


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(_MAX_VALUE)
