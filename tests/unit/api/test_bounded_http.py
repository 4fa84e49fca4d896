"""One connection costs a manager little before its request is whole, on both loops."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from typing import Any, cast

import pytest
import uvloop

from cluster.api import bounded_http as module
from cluster.api import peer
from cluster.api.refused import Refused
from cluster.pki import tls
from cluster.protocol.identity import Kind
from tests.support.authority import ClusterAuthority
from tests.support.serving import LoopFactory, Receive, Scope, Send, Serving, serving

pytestmark = pytest.mark.threat("T-16")

REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"
LAST_REQUEST = REQUEST.replace(b"host: x", b"host: x\r\nconnection: close")


async def count_body(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the whole body, whatever its size: the limits under test lie before the application."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"<{size}>".encode()})


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    """A listener with the shipped limits of size and short ones of time."""
    assert module.HEAD_TIMEOUT_S <= 10
    assert module.BODY_TIMEOUT_S <= 15
    monkeypatch.setattr(module, "HEAD_TIMEOUT_S", 0.5)
    monkeypatch.setattr(module, "BODY_TIMEOUT_S", 0.5)
    factory: LoopFactory = request.param
    with serving(count_body, None, loop_factory=factory) as running:
        yield running


def connected(server: Serving) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def until_end(connection: socket.socket, sent: bytes = b"") -> bytes:
    """Send, then return what comes until the other side ends the connection."""
    received = b""
    try:
        connection.sendall(sent)
        while chunk := connection.recv(65_536):
            received += chunk
    except (ConnectionError, ssl.SSLError):
        pass
    return received


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nab",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nab",
    ],
    ids=["nothing", "empty-lines", "half-a-head", "half-a-body", "half-a-chunk"],
)
def test_unfinished_request_is_given_up(server: Serving, sent: bytes) -> None:
    with connected(server) as slow:
        assert until_end(slow, sent) == b""
    with connected(server) as quick:
        assert b"<3>" in until_end(quick, LAST_REQUEST)
    assert server.refused == {Refused.SLOW: 1}


def test_second_request_has_its_limits_too(server: Serving) -> None:
    with connected(server) as slow:
        slow.sendall(REQUEST)
        assert b"200" in slow.recv(4096)
        assert b"400" not in until_end(slow, b"\r\nPOST / HT")


@pytest.mark.parametrize(
    "head",
    [b"GET /", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nx: ", b"GET / HTTP/1.1\r\ny: 1\r\nx"],
    ids=["path", "headers", "value", "name"],
)
def test_head_that_never_ends_is_given_up(server: Serving, head: bytes) -> None:
    """The parser has no limit of its own: without ours all of it would be kept."""
    filling = b"x: y\r\n" if head.endswith(b"\r\n") else b"a"
    sent = head + filling * (16 * module.HEAD_BYTES // len(filling))
    with connected(server) as large:
        assert b"200" not in until_end(large, sent)


def test_trailers_that_never_end_are_given_up(server: Serving) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
    with connected(server) as large:
        assert b"200" not in until_end(large, head + b"x: y\r\n" * module.MESSAGE_BYTES)
    # On a slow machine its time may be over first.
    assert server.refused in ({Refused.LARGE: 1}, {Refused.SLOW: 1})


def test_whole_request_within_the_limits_is_answered(server: Serving) -> None:
    size = 600_000
    head = f"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n"
    with connected(server) as large:
        assert b"<600000>" in until_end(large, head.encode() + b"v" * size)


def test_one_peer_opens_only_so_many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """By certificate where there is one, by address where there is none; others get in."""
    monkeypatch.setattr(peer, "CONNECTIONS_PER_PEER", 3)
    cluster = ClusterAuthority()
    manager = cluster.issue(Kind.MANAGER)
    for client_cas in (cluster.control_der, None):
        server_context = tls.server_context(manager.chain_pem, manager.key_pem, client_cas)
        with serving(count_body, server_context) as running:
            first, second = (
                Opener(cluster, running, name, source)
                for name, source in (("n1", "127.0.0.1"), ("n2", "127.0.0.2"))
            )
            held = [first.open() for _ in range(3)]
            assert all(first.is_answered(one) for one in held)
            with first.open() as fourth:
                assert not first.is_answered(fourth)
            assert running.refused == {Refused.CONNECTIONS: 1}
            with second.open() as other:
                assert second.is_answered(other)
            held.pop().close()
            running.wait_until(lambda: running.registry.open_by_peer() <= 2)
            with first.open() as again:
                assert first.is_answered(again)
            for one in held:
                one.close()


@pytest.mark.threat("T-46")
def test_strangers_with_the_most_connections_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses take part, one more that needs a single connection gets it."""
    monkeypatch.setattr(peer, "STRANGERS_TOGETHER", 4)
    cluster = ClusterAuthority()
    manager = cluster.issue(Kind.MANAGER)
    server_context = tls.server_context(manager.chain_pem, manager.key_pem, None)
    with serving(count_body, server_context) as running:
        greedy, other, last = (
            Opener(cluster, running, "n", f"127.0.0.{number}") for number in (1, 2, 3)
        )
        held = [greedy.open() for _ in range(3)]
        running.wait_until(lambda: running.registry.open_by_peer() == 3)
        with other.open() as second, last.open() as third:
            assert other.is_answered(second)
            assert last.is_answered(third)
            assert not greedy.is_answered(held[0]), "the oldest of the busiest went"
            assert greedy.is_answered(held[1])
            assert running.refused == {Refused.CONNECTIONS: 1}
        for one in held:
            one.close()


class Opener:
    """Opens connections as one peer."""

    def __init__(self, cluster: ClusterAuthority, running: Serving, name: str, source: str) -> None:
        who = cluster.issue(Kind.NODE, name)
        self.context = tls.client_context(cluster.control_der, who.chain_pem, who.key_pem)
        self.address = ("127.0.0.1", running.port)
        self.source = (source, 0)

    def open(self) -> ssl.SSLSocket:
        plain = socket.create_connection(self.address, timeout=30, source_address=self.source)
        return self.context.wrap_socket(plain, server_hostname="m1")

    def is_answered(self, connection: ssl.SSLSocket) -> bool:
        try:
            connection.sendall(REQUEST)
            return b"200" in connection.recv(4096)
        except (ConnectionError, ssl.SSLError):
            return False


async def answer_and_shut_down(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer, and have the listener end connections in the same turn of the loop."""
    await receive()
    headers = [(b"content-length", b"3")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"abc"})
    cycle = cast("Any", send).__self__  # uvicorn's, whose `send` it is
    cycle.on_response.__self__.shutdown()


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_an_answer_is_not_lost_when_the_listener_ends(method: str) -> None:
    request = f"{method} / HTTP/1.1\r\nhost: x\r\n\r\n".encode()
    with serving(answer_and_shut_down, None) as running, connected(running) as asking:
        head, _, body = until_end(asking, request).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == (b"abc" if method == "GET" else b"")
