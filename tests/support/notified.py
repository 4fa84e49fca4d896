"""A supervisor's notification socket, and what arrived at it."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Notified:
    """The lines that arrived, in order."""

    address: str
    listener: socket.socket
    lines: list[str] = field(default_factory=list)

    def heard(self) -> list[str]:
        """Take in what is there and return all lines so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.lines += self.listener.recv(4_096).decode().split("\n")
        return self.lines


@contextlib.contextmanager
def notify_socket(address: Path | str) -> Iterator[Notified]:
    """Listen as systemd does: on a path, or on an abstract name that starts with `@`."""
    text = str(address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{text[1:]}" if text.startswith("@") else text)
        listener.setblocking(False)
        yield Notified(text, listener)
