"""The listener's hold on uvicorn: handshakes are limited in time, signals are left alone."""

import asyncio
import signal
import socket
from typing import Literal

import pytest
import uvicorn
import uvloop

from cluster.api import accepting as module
from cluster.api.listener import Listener
from cluster.pki import tls
from cluster.protocol.errors import Unavailable
from cluster.protocol.identity import Kind
from tests.support.authority import ClusterAuthority
from tests.support.serving import Application, Receive, Scope, Send, serving


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no"})


def config_of(application: Application, lifespan: Literal["on", "off"]) -> uvicorn.Config:
    return uvicorn.Config(application, log_config=None, lifespan=lifespan)


def test_silent_stranger_is_thrown_out() -> None:
    """uvicorn alone would hold the connection for a minute."""
    manager = ClusterAuthority().issue(Kind.MANAGER)
    context = tls.server_context(manager.chain_pem, manager.key_pem, None)
    assert module.HANDSHAKE_TIMEOUT_S < 10
    with (
        serving(nothing, context, loop_factory=uvloop.new_event_loop) as running,
        socket.create_connection(("127.0.0.1", running.port), timeout=40) as silent,
    ):
        assert silent.recv(1) == b""


async def test_signals_stay_the_managers() -> None:
    before = signal.getsignal(signal.SIGTERM)
    listener = Listener(config_of(nothing, "off"))
    with socket.create_server(("127.0.0.1", 0)) as bound, listener.capture_signals():
        assert bound.getsockname()
        assert signal.getsignal(signal.SIGTERM) is before


async def test_listener_without_sockets_is_refused() -> None:
    with pytest.raises(Unavailable):
        await Listener(config_of(nothing, "off")).serve()


async def test_application_that_does_not_start_is_an_error_and_no_exit() -> None:
    """uvicorn alone calls sys.exit, in the middle of the manager."""
    with socket.create_server(("127.0.0.1", 0)) as bound, pytest.raises(Unavailable):
        async with asyncio.timeout(30):
            await Listener(config_of(failing, "on")).serve(sockets=[bound])
