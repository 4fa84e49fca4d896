"""What one connection may cost before its request is whole: seconds and bytes.

Owns the end of connections that are too slow or too large; it looks at no content. uvicorn's parser
sets no limit to a head, and uvicorn gives a connection that never sends a request all the time in
the world: a stranger would hold memory and descriptors for nothing. Rates and bodies are
`limits`' business. uvicorn's internals: tests/unit/api/test_bounded_http.py holds the contract.
"""

import asyncio
from typing import Final, cast

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cluster.api.one_write import OneWrite
from cluster.api.refused import CountRefused, Refused, uncounted

log = structlog.get_logger(__name__)

HEAD_TIMEOUT_S: Final = 10.0
"""From connecting, or from a request's first byte, to the end of its head."""
BODY_TIMEOUT_S: Final = 15.0
"""From the end of the head to the end of the body."""
HEAD_BYTES: Final = 64 * 1024
MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""Head, body and framing as they come in; chunks may be small, so it is more than any body."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which waits and stores within limits."""

    count_refused: CountRefused = staticmethod(uncounted)
    """uvicorn makes the instances itself, so what counts travels on the class."""
    _awaited: asyncio.TimerHandle | None = None
    _timeout_s: float | None = None
    """Of what is waited for now; most requests come whole, and need no timer."""
    _moved_on = False
    """Something else is waited for than `_awaited` tells."""
    _in_head = True
    _whole = False
    _received = 0

    # uvicorn narrows the argument as well.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the first request its time."""
        super().connection_made(transport)
        self._await(HEAD_TIMEOUT_S)
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._await(None)
        self._set_timer()
        super().connection_lost(exc)
        self._let_go()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to the WebSocket protocol."""
        super().handle_websocket_upgrade()
        self._let_go()

    def data_received(self, data: bytes) -> None:
        """Parse, then end a connection whose request has grown too large on its way in."""
        if self._whole and self.cycle.response_complete:
            # uvicorn stops its keep-alive timer at any byte, even if no request begins with it.
            self._begin()
        self._received += len(data)
        super().data_received(data)
        limit = HEAD_BYTES if self._in_head else MESSAGE_BYTES
        if not self._whole and self._received > limit:
            self._give_up(Refused.LARGE)
        if self._moved_on:
            self._set_timer()

    def on_message_begin(self) -> None:
        """Start counting for a request."""
        if self._whole:
            self._begin()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Give the body its time."""
        self._in_head = False
        self._await(BODY_TIMEOUT_S)
        before = self.cycle
        super().on_headers_complete()
        # An answer to HEAD is complete with its head: nothing behind it would let it go before a
        # listener that ends closes the transport.
        if self.cycle is not before and self.scope["method"] != "HEAD":
            # uvicorn's type asks for more of a transport than it uses.
            self.cycle.transport = cast("asyncio.Transport", OneWrite(self.transport, self.loop))

    def on_message_complete(self) -> None:
        """Leave the time it takes to answer to the application."""
        self._whole = True
        self._await(None)
        super().on_message_complete()

    def _let_go(self) -> None:
        """Part from the parser, which knows us: with it we would be a cycle, and keep the transport
        and TLS's buffers until the collector of cycles comes by."""
        vars(self).pop("parser", None)

    def _begin(self) -> None:
        self._in_head, self._whole, self._received = True, False, 0
        self._await(HEAD_TIMEOUT_S)

    def _await(self, timeout_s: float | None) -> None:
        self._timeout_s, self._moved_on = timeout_s, True

    def _set_timer(self) -> None:
        self._moved_on = False
        if self._awaited is not None:
            self._awaited.cancel()
            self._awaited = None
        if self._timeout_s is not None:
            self._awaited = self.loop.call_later(self._timeout_s, self._give_up, Refused.SLOW)

    def _give_up(self, why: Refused) -> None:
        if self.transport.is_closing():
            return
        log.info("connection.given_up", peer=self.client, reason=f"too {why}")
        self.count_refused(why)
        self.transport.abort()
