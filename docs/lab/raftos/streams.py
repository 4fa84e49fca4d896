"""A network for etcd on loopback: a listener in front of each member, and any pair can be cut.

etcd's members name each other by one address each, so who calls is read from the head of the first
request: members say who they are in it. What does not, as a question for the version, passes only
while nothing is cut.
"""

import asyncio
from collections.abc import Collection, Mapping
from functools import partial
from typing import Self

import h11

from docs.lab.layout import HOST

Address = tuple[str, int]
_CHUNK = 1 << 16
_HEAD_TIMEOUT_S = 60.0
_FROM = b"x-server-from"


class StreamRelay:
    """Passes connections on to the members, except between those that are cut apart."""

    def __init__(self, members: Mapping[str, Address]) -> None:
        self._members = dict(members)
        self._servers: dict[str, asyncio.Server] = {}
        self._names: dict[int, str] = {}
        self._cut: set[frozenset[str]] = set()
        self._open: dict[asyncio.Task[None], tuple[int, str]] = {}

    async def __aenter__(self) -> Self:
        for target in self._members:
            self._servers[target] = await asyncio.start_server(
                partial(self._serve, target), HOST, 0
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers.values():
            server.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    def address(self, target: str) -> str:
        """Return where a member is reached: host:port."""
        return f"{HOST}:{self._servers[target].sockets[0].getsockname()[1]}"

    def know(self, names: Mapping[int, str]) -> None:
        """Learn the members' names by their ids; needed before anything is cut."""
        self._names = dict(names)

    def cut(self, one: Collection[str], other: Collection[str]) -> None:
        """Break every connection between two groups of members, and let none begin."""
        self._cut = {frozenset((a, b)) for a in one for b in other}
        for task, (source, target) in self._open.items():
            if self._is_cut(source, target):
                task.cancel()

    def heal(self) -> None:
        """Let connections begin again."""
        self._cut.clear()

    def _is_cut(self, source: int, target: str) -> bool:
        name = self._names.get(source)
        return bool(self._cut) and (name is None or frozenset((name, target)) in self._cut)

    async def _serve(
        self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = (0, target)
        try:
            async with asyncio.timeout(_HEAD_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
            source = _source(head)
            self._open[task] = (source, target)
            if not self._is_cut(source, target):
                await self._join(target, head, reader, writer)
        except (asyncio.CancelledError, asyncio.IncompleteReadError, OSError):
            pass  # cut, ended by a member, or the end
        finally:
            del self._open[task]
            writer.transport.abort()

    async def _join(
        self,
        target: str,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._members[target])
        try:
            far_writer.write(head)
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, far_writer))
                group.create_task(_copy(far_reader, writer))
        except* OSError:
            pass  # one end went
        finally:
            far_writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK):
        writer.write(chunk)
        await writer.drain()
    # One direction that ended ends the other: HTTP between members does not half-close.
    raise ConnectionResetError


def _source(head: bytes) -> int:
    """Return the id of the member that sends a request; 0 where it does not say."""
    http = h11.Connection(h11.SERVER)
    http.receive_data(head)
    request = http.next_event()
    if not isinstance(request, h11.Request):
        return 0
    return int(dict(request.headers).get(_FROM, b"0"), 16)
