"""A load generator: many callers, each with one kept connection.

It reads answers with the least work it can, because it shares the machine with what it measures.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Iterator, Sequence

import uvloop

from tests.support.running import Credential

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)

Asked = tuple[str, str, bytes]
"""Method, target, body."""


class Caller:
    """One kept connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, endpoint: str, context: ssl.SSLContext) -> "Caller":
        """Return a connection to `host:port`."""
        host, _, port = endpoint.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port), ssl=context))

    async def ask(self, asked: Asked) -> bytes:
        """Send one request and return the body of its answer, which must be a success."""
        method, target, body = asked
        head = f"{method} {target} HTTP/1.1\r\nhost: manager\r\ncontent-length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        found = _LENGTH.search(answer)
        content = await self._reader.readexactly(int(found.group(1))) if found else b""
        if not answer.startswith(b"HTTP/1.1 2"):
            raise AssertionError(f"{method} {target.partition('?')[0]}: {content[:200]!r}")
        return content

    async def close(self) -> None:
        """End the connection."""
        self._writer.close()
        await self._writer.wait_closed()


async def _rates(
    endpoints: Sequence[str], credential: Credential, callers: int, rounds: Iterator[list[Asked]]
) -> list[float]:
    context = credential.context()
    connected = [
        await Caller.connect(endpoints[number % len(endpoints)], context)
        for number in range(callers)
    ]
    rates = []
    for round_ in rounds:
        waiting = iter(round_)
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for caller in connected:
                group.create_task(_work(caller, waiting))
        rates.append(len(round_) / (time.perf_counter() - started))
    for caller in connected:
        await caller.close()
    return rates


async def _work(caller: Caller, waiting: Iterator[Asked]) -> None:
    for asked in waiting:
        await caller.ask(asked)


def rates(
    endpoints: Sequence[str], credential: Credential, callers: int, rounds: Iterator[list[Asked]]
) -> list[float]:
    """Return requests a second, one figure a round; the callers share a round's requests."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_rates(endpoints, credential, callers, rounds))
