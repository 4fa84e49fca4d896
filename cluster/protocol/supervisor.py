"""Telling the supervisor of this process how it stands: systemd's notification socket.

Owns the datagrams and their order: READY once, STATUS when it changes, WATCHDOG while the event
loop turns, STOPPING. Without a supervisor nothing is sent. It tells states, never data. Source:
sd_notify(3), sd_watchdog_enabled(3).
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final

LOOK_S: Final = 1.0
STATUS_SIZE: Final = 200


class Supervisor:
    """Who started this process and wants to know, if anybody."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        """Take the socket's path, `@name` for an abstract one, and how long silence may last in
        seconds; 0 is for ever."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog_s = watchdog_s

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> "Supervisor":
        """Return the supervisor that the environment names, and take it out of there: a child must
        not speak for this process."""
        address = environment.pop("NOTIFY_SOCKET", "")
        period, process = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        meant = process in {"", str(os.getpid())} and period.isascii() and period.isdigit()
        return cls(address, int(period) / 1_000_000 if meant else 0.0)

    async def run(self, state: Callable[[], str]) -> None:
        """Tell how this process stands until cancelled, then that it stops.

        `state`: a line for people; empty before the process is ready.
        """
        said = ""
        try:
            while True:
                now = " ".join(state().split())[:STATUS_SIZE]
                lines = ["READY=1"] if now and not said else []
                lines += [f"STATUS={now}"] if now != said else []
                lines += ["WATCHDOG=1"] if now and self._watchdog_s else []
                self.tell(*lines)
                said = now or said
                await asyncio.sleep(min(LOOK_S, self._watchdog_s / 3 or LOOK_S))
        finally:
            self.tell("STOPPING=1", "STATUS=stopping")

    def tell(self, *lines: str) -> None:
        """Send one datagram; what cannot be sent at once is lost, and nothing waits for it."""
        if not (self._address and lines):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            with contextlib.suppress(OSError):
                sender.sendto("\n".join(lines).encode(), self._address)
