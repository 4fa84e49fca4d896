"""A uvicorn server on sockets that are already bound, with a short time limit for TLS handshakes.

Owns the start of listening, nothing of what is served. uvicorn leaves asyncio's 60 s for a
handshake, in which a stranger without a certificate holds a connection for the price of a SYN; and
it takes over the process's signals, which are the manager's. Both are uvicorn's internals:
tests/unit/api/test_listener.py holds the contract.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import cast

import uvicorn

from cluster.api.accepting import AcceptLoop, Doors
from cluster.api.refused import CountRefused, uncounted
from cluster.protocol.errors import Unavailable


class Listener(uvicorn.Server):
    """Serves one application: `serve(sockets=[...])` runs it, setting `should_exit` ends it."""

    def __init__(self, config: uvicorn.Config, count_refused: CountRefused = uncounted) -> None:
        """Take uvicorn's settings, and what counts those who are turned away at the door."""
        super().__init__(config)
        self._count_refused = count_refused

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop; when cancelled, everything is let go at once."""
        try:
            await super().serve(sockets)
        except asyncio.CancelledError:
            self._let_go(sockets or [])
            raise

    def _let_go(self, sockets: list[socket.socket]) -> None:
        """Close what listens and cut what is connected: a manager that goes on needs the ports."""
        for server in self.servers if self.started else []:
            server.close()
        for one in sockets:
            one.close()
        for task in list(self.server_state.tasks):
            task.cancel()
        for connection in list(self.server_state.connections):
            transport = connection.transport
            if isinstance(transport, asyncio.Transport):
                transport.abort()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, or raise Unavailable; uvicorn's own would end the process."""
        if not sockets:
            raise Unavailable("a listener takes sockets that are already bound")
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise Unavailable("the application did not start; see the log before this line")
        doors = [
            AcceptLoop(one, self.config.ssl, self._new_protocol, Doors(), self._count_refused)
            for one in sockets
        ]
        for door in doors:
            door.start(self.config.backlog)
        # uvicorn closes them and waits for them, which is all it does with a server.
        self.servers = cast("list[asyncio.Server]", doors)
        self.started = True

    def _new_protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]  # typed as a bare Protocol
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the process's signals alone: the manager owns them."""
        yield
