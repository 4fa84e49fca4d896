"""The last lines of a service's output, in memory, bounded in number and size (pure).

Owns cutting a stream into lines and what is dropped; it reads no clock and does no IO. Lines are
known by when they came, on CLOCK_BOOTTIME: strictly rising within a ring, so that who has all up to
a moment asks for what came behind it.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

RING_BYTES: Final = 524_288
RING_LINES: Final = 5_000
MAX_LINE: Final = 8_192
"""What is kept of a line; it is looked through whole before."""
MAX_PENDING: Final = 65_536
"""A longer line is not kept at all: where it was cut, the first part of a value would remain."""
TOO_LONG: Final = b"[line too long]"
_CUT: Final = b" [cut]"
_STEP_S: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Line:
    """One line, without its end."""

    at_s: float
    """CLOCK_BOOTTIME."""
    time_s: float
    """By the calendar, for people."""
    stream: str
    text: str


class LineCutter:
    """Cuts one stream into lines, of which the end may be long in coming."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._overflowed = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that are complete."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._take(end)
            yield self._taken()
        self._take(rest)

    def rest(self) -> Iterator[bytes]:
        """Yield the last line if the stream ended without an end of it."""
        if self._pending or self._overflowed:
            yield self._taken()

    def _take(self, data: bytes) -> None:
        if len(self._pending) + len(data) > MAX_PENDING:
            self._overflowed = True
            self._pending.clear()
        if not self._overflowed:
            self._pending += data

    def _taken(self) -> bytes:
        line = TOO_LONG if self._overflowed else bytes(self._pending)
        self._pending.clear()
        self._overflowed = False
        return line


class Ring:
    """The last lines of both streams."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque()
        self._size = 0
        self._last_s = 0.0

    def add(self, stream: str, text: bytes, at_s: float, time_s: float) -> None:
        """Keep a line, which holds no value any more; the oldest ones make room."""
        if len(text) > MAX_LINE:
            text = text[:MAX_LINE] + _CUT
        self._last_s = max(at_s, self._last_s + _STEP_S)
        line = Line(self._last_s, time_s, stream, text.decode("utf-8", "backslashreplace"))
        self._lines.append(line)
        self._size += len(line.text)
        while self._size > RING_BYTES or len(self._lines) > RING_LINES:
            self._size -= len(self._lines.popleft().text)

    def after(self, at_s: float) -> list[Line]:
        """Return the lines that came behind a moment, the oldest first."""
        return [line for line in self._lines if line.at_s > at_s]
