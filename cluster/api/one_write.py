"""A response's head and the first of its body in one write.

Owns the bytes of a head until its body comes, within one turn of the event loop. uvicorn writes the
two apart: two TLS records and two system calls, a tenth of what issuing a secret costs. Source:
docs/explanation/performance.md.
"""

import asyncio
from typing import Final

JOINED_BYTES: Final = 64 * 1024
"""What is larger is not copied."""


class OneWrite:
    """What one request's answer is written to; of a transport it has what uvicorn uses of one."""

    __slots__ = ("_begun", "_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._begun = False
        self._held = b""

    def write(self, data: bytes) -> None:
        """Write; what comes first is held until the next of this turn, and nothing else is: an
        answer that is complete is with the transport."""
        if not self._begun:
            self._begun, self._held = True, data
            # A body that is awaited does not keep its head back.
            self._loop.call_soon(self._let_go)
            return
        if self._held and len(data) <= JOINED_BYTES:
            data, self._held = self._held + data, b""
        else:
            self._let_go()
        self._transport.write(data)

    def close(self) -> None:
        """Write what is held and close."""
        self._let_go()
        self._transport.close()

    def is_closing(self) -> bool:
        """Return whether the connection ends."""
        return self._transport.is_closing()

    def _let_go(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)
