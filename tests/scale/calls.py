"""Many calls at once over kept connections: how a fleet joins, and how the store is filled."""

import asyncio
import re
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_CONNECT_S: Final = 30.0
_ANSWER_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request."""

    method: str
    target: str
    body: bytes = b""


class RefusedError(AssertionError):
    """An answer that is no success."""

    def __init__(self, call: Call, status: int, content: bytes) -> None:
        super().__init__(f"{call.method} {call.target}: {status} {content[:200]!r}")
        self.status = status


class Caller:
    """One kept connection to one listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, endpoint: str, context: ssl.SSLContext) -> "Caller":
        """Return a connection to `host:port`."""
        host, _, port = endpoint.rpartition(":")
        async with asyncio.timeout(_CONNECT_S):
            return cls(*await asyncio.open_connection(host, int(port), ssl=context))

    async def ask(self, call: Call) -> bytes:
        """Send a request and return the body of its answer, or raise RefusedError."""
        head = f"{call.method} {call.target} HTTP/1.1\r\nhost: manager\r\n"
        self._writer.write(f"{head}content-length: {len(call.body)}\r\n\r\n".encode() + call.body)
        async with asyncio.timeout(_ANSWER_S):
            answer = await self._reader.readuntil(b"\r\n\r\n")
            found = _LENGTH.search(answer)
            content = await self._reader.readexactly(int(found.group(1))) if found else b""
        status = int(answer[9:12])
        if not 200 <= status < 300:
            raise RefusedError(call, status, content)
        return content

    async def close(self) -> None:
        """End the connection."""
        self._writer.close()


async def ask_all(
    endpoint: str, context: ssl.SSLContext, calls: Iterable[Call], callers: int
) -> int:
    """Make every call, `callers` at once; return how many were made."""
    waiting = iter(calls)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_work(endpoint, context, waiting)) for _ in range(callers)]
    return sum(task.result() for task in tasks)


async def _work(endpoint: str, context: ssl.SSLContext, waiting: Iterator[Call]) -> int:
    caller = await Caller.connect(endpoint, context)
    done = 0
    for call in waiting:
        await caller.ask(call)
        done += 1
    await caller.close()
    return done
