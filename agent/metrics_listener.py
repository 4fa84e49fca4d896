"""`/metrics` of an agent on this machine's loopback.

Owns the listener, its limits and the exchange; what is told is `agent.metrics`'s. It answers
anybody on this machine, one request a connection, and reads no body. Source: RFC 9112, by h11.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import h11
import structlog

from cluster.protocol.errors import Unavailable
from cluster.protocol.loopback import LoopbackUrl

log = structlog.get_logger(__name__)

REQUEST_TIMEOUT_S: Final = 5.0
"""From connecting to the end of the answer."""
MAX_CONNECTIONS: Final = 8
HEAD_LIMIT: Final = 16 * 1024
TELL_EVERY_S: Final = 10.0
_READ_SIZE: Final = 4 * 1024
_OK, _BAD, _NOT_FOUND = 200, 400, 404


class MetricsListener:
    """Serves until closed. The caller owns it and closes it."""

    def __init__(self, address: LoopbackUrl, content_type: str, read: Callable[[], bytes]) -> None:
        """`read` returns the text; it is called on the agent's loop and must not wait."""
        self._address = address
        self._content_type = content_type
        self._read = read
        self._server: asyncio.Server | None = None
        # Insertion order, oldest first: a dict stands for an ordered set.
        self._open: dict[asyncio.Task[None], None] = {}
        self._telling: asyncio.TimerHandle | None = None
        self._dropped = 0
        """Connections without an answer that nobody was told of yet."""

    async def start(self) -> None:
        """Listen. Raises Unavailable where the address is taken."""
        host = self._address.addresses[0]
        try:
            self._server = await asyncio.start_server(
                self._on_connection, host, self._address.port, limit=HEAD_LIMIT
            )
        except OSError as error:
            raise Unavailable(
                f"metrics_listen: {self._address.authority}: {error.strerror}; give another port"
            ) from None

    async def close(self) -> None:
        """Stop listening and drop connections."""
        if self._server is None:
            return
        self._server.close()
        if self._telling is not None:
            self._telling.cancel()
        self._tell()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(list(self._open), timeout=REQUEST_TIMEOUT_S)
        self._server = None

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._make_room()
            self._open[task] = None
            task.add_done_callback(self._forget)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                await self._exchange(reader, writer)
        except (TimeoutError, OSError):
            self._count_drop()
        finally:
            writer.close()

    def _make_room(self) -> None:
        """Drop the oldest at the limit: who holds many and says nothing keeps nobody out."""
        going = [task for task in self._open if not task.cancelling()]
        if len(going) >= MAX_CONNECTIONS:
            going[0].cancel()
            self._count_drop()

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._open[task]

    def _count_drop(self) -> None:
        self._dropped += 1
        if self._telling is None:
            loop = asyncio.get_running_loop()
            self._telling = loop.call_later(TELL_EVERY_S, self._tell)

    def _tell(self) -> None:
        self._telling = None
        if self._dropped:
            log.info("metrics.connections_dropped", count=self._dropped)
            self._dropped = 0

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        status, content = await self._answer(reader, http)
        headers = [("content-length", str(len(content))), ("connection", "close")]
        if status == _OK:
            headers += [("content-type", self._content_type), ("cache-control", "no-store")]
        with suppress(h11.LocalProtocolError):  # a HEAD takes no body
            writer.write(http.send(h11.Response(status_code=status, headers=headers)) or b"")
            writer.write(http.send(h11.Data(data=content)) or b"")
        await writer.drain()

    async def _answer(
        self, reader: asyncio.StreamReader, http: h11.Connection
    ) -> tuple[int, bytes]:
        try:
            while (event := http.next_event()) is h11.NEED_DATA:
                http.receive_data(await reader.read(_READ_SIZE))
        except h11.RemoteProtocolError:
            return _BAD, b""
        if not isinstance(event, h11.Request):
            return _BAD, b""
        if event.method != b"GET" or event.target != b"/metrics":
            return _NOT_FOUND, b""
        return _OK, self._read()
