"""Taking a service's own values out of what it printed, before that goes anywhere.

A net, not a wall: it finds values as they lie in the service's files, whole, and line by line where
they have several lines. What a program encoded, cut or printed letter by letter passes. Values are
read for each look and kept nowhere. Standard library only. Source: docs/how-to/service-logs.md.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

REDACTED: Final = b"[redacted]"
SHORTEST: Final = 4
"""Shorter values would blot out half of every text, and can be guessed anyway."""
SHORTEST_LINE: Final = 8
_MAX_VALUE: Final = 1_048_576
_FRAME: Final = b"-----"
"""Begins the lines that frame a PEM block: they are public."""


def values_in(mount: Path) -> list[bytes]:
    """Return the content of every file in a service's mount, superseded sets included.

    A program may still use what was superseded a moment ago; the agent drops it after a while.
    """
    found: set[bytes] = set()
    with suppress(OSError):
        for directory in _generations(mount):
            for entry in os.scandir(directory):
                # Not `..manifest`, which names versions and is no value.
                if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                    with suppress(OSError):
                        found.add(_content(entry.path))
    return list(found)


def redacted(text: bytes, patterns: Iterable[bytes]) -> bytes:
    """Return one line of output without what `patterns_of` some values finds."""
    for pattern in patterns:
        text = text.replace(pattern, REDACTED)
    return text


def patterns_of(values: Iterable[bytes]) -> list[bytes]:
    """Return what to look for, the longest first: one value may lie within another."""
    found: set[bytes] = set()
    for value in values:
        found.update(one for one in (value, value.strip()) if len(one.strip()) >= SHORTEST)
        lines = (line.strip() for line in value.splitlines())
        found.update(x for x in lines if len(x) >= SHORTEST_LINE and not x.startswith(_FRAME))
    return sorted(found, key=lambda one: (-len(one), one))


def _generations(mount: Path) -> list[str]:
    return [
        entry.path
        for entry in os.scandir(mount)
        if entry.name.startswith("..") and entry.is_dir(follow_symlinks=False)
    ]


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(_MAX_VALUE)
