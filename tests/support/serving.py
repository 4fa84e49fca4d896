"""A real `Listener` on loopback, in a thread with a loop of its own, for blocking clients."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import uvicorn

from cluster.api.listener import Listener
from cluster.api.peer import ConnectionRegistry, peer_protocols
from cluster.api.refused import Refused
from cluster.system import SystemClock
from tests.support.authority import TRUST_DOMAIN

T = TypeVar("T")
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class Serving:
    """A running listener: its address, its register, and a way onto its loop."""

    def __init__(
        self,
        port: int,
        registry: ConnectionRegistry,
        loop: asyncio.AbstractEventLoop,
        refused: Counter[Refused],
    ) -> None:
        self.port = port
        self.refused = refused
        """How often the listener turned somebody away, by reason."""
        self.endpoint = f"127.0.0.1:{port}"
        self.registry = registry
        self._loop = loop

    def call(self, function: Callable[[], T]) -> T:
        """Return what `function` returns on the listener's loop."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Return when `true` holds on the listener's loop."""

        async def run() -> None:
            async with asyncio.timeout(30):
                while not true():  # noqa: ASYNC110  # nothing signals it
                    await asyncio.sleep(0.01)

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(40)


@contextlib.contextmanager
def serving(
    application: Application,
    context: ssl.SSLContext | None,
    *,
    loop_factory: LoopFactory = asyncio.new_event_loop,
    registry: ConnectionRegistry | None = None,
) -> Iterator[Serving]:
    """Serve `application` with peer certificates in its scope while the block lasts."""
    bound = socket.create_server(("127.0.0.1", 0))
    port = bound.getsockname()[1]
    refused: Counter[Refused] = Counter()

    def count(why: Refused) -> None:
        refused[why] += 1

    registry = registry or ConnectionRegistry(
        TRUST_DOMAIN, SystemClock(), made_room=lambda: count(Refused.CONNECTIONS)
    )
    http, websocket = peer_protocols(registry, count)
    factory: Any = (lambda _config, _default: context) if context is not None else None
    config = uvicorn.Config(
        application,
        http=http,
        ws=websocket,
        ssl_context_factory=factory,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    listener = Listener(config, count)
    loop = loop_factory()
    ended = threading.Thread(
        target=lambda: loop.run_until_complete(listener.serve(sockets=[bound]))
    )
    ended.start()
    try:
        yield Serving(port, registry, loop, refused)
    finally:
        listener.should_exit = True
        ended.join(30)
        loop.close()
