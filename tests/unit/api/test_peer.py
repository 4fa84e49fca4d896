"""The contract with uvicorn's internals: the caller reaches the application, connections end.

Every test runs on asyncio's loop and on uvloop, which close TLS differently.
"""

import asyncio
import gc
import json
import socket
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import cast

import pytest
import uvloop
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from cluster.api.peer import (
    ConnectionRegistry,
    PeerHttpProtocol,
    PeerWebSocketProtocol,
    caller_of,
)
from cluster.api.refused import Refused
from cluster.pki import tls
from cluster.protocol.errors import ClusterError
from cluster.protocol.https_client import request
from cluster.protocol.identity import Kind
from cluster.system import SystemClock
from tests.support.authority import TRUST_DOMAIN, ClusterAuthority, Credential
from tests.support.clock import ManualClock
from tests.support.serving import LoopFactory, Receive, Scope, Send, Serving, serving


@pytest.fixture(scope="module")
def cluster() -> ClusterAuthority:
    return ClusterAuthority()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> LoopFactory:
    factory: LoopFactory = request.param
    return factory


async def who_am_i(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the caller's name; over WebSocket once per message."""
    caller = caller_of(scope)
    name = str(caller.identity) if caller is not None else "nobody"
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": name})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps([name]).encode()})


@pytest.fixture
def server(cluster: ClusterAuthority, loop_factory: LoopFactory) -> Iterator[Serving]:
    manager = cluster.issue(Kind.MANAGER)
    context = tls.server_context(manager.chain_pem, manager.key_pem, cluster.control_der)
    with serving(who_am_i, context, loop_factory=loop_factory) as running:
        yield running


def ask(cluster: ClusterAuthority, server: Serving, who: Credential | None, **headers: str) -> str:
    chain, key = (who.chain_pem, who.key_pem) if who is not None else (None, None)
    context = tls.client_context(cluster.control_der, chain, key)
    answer = request(
        [server.endpoint], "GET", "/", headers=headers, context=context, trust_domain=TRUST_DOMAIN
    )
    (name,) = json.loads(answer.body)
    return str(name)


def open_websocket(cluster: ClusterAuthority, server: Serving, who: Credential) -> ClientConnection:
    context = tls.client_context(cluster.control_der, who.chain_pem, who.key_pem)
    return connect(
        f"wss://{server.endpoint}/", ssl=context, compression=None, proxy=None, ping_interval=None
    )


def ask_over(websocket: ClientConnection) -> str:
    websocket.send("who am i")
    return str(websocket.recv(timeout=30))


def test_request_carries_its_caller(cluster: ClusterAuthority, server: Serving) -> None:
    assert ask(cluster, server, cluster.issue(Kind.NODE, "n1")) == "spiffe://lab.test/node/n1"
    assert ask(cluster, server, cluster.issue(Kind.OPERATOR, "o")) == "spiffe://lab.test/operator/o"


def test_websocket_carries_its_caller(cluster: ClusterAuthority, server: Serving) -> None:
    with open_websocket(cluster, server, cluster.issue(Kind.NODE, "n1")) as websocket:
        assert ask_over(websocket) == "spiffe://lab.test/node/n1"


def test_every_request_of_a_connection_carries_its_caller(
    cluster: ClusterAuthority, server: Serving
) -> None:
    """Keep-alive: the scope is made anew for each request."""
    who = cluster.issue(Kind.NODE, "n1")
    context = tls.client_context(cluster.control_der, who.chain_pem, who.key_pem)
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        for _ in range(3):
            connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = b""
            while b"]" not in answer:
                answer += connection.recv(4096)
            assert b"spiffe://lab.test/node/n1" in answer


def test_listener_that_asks_for_no_certificate_knows_nobody(
    cluster: ClusterAuthority, loop_factory: LoopFactory
) -> None:
    manager = cluster.issue(Kind.MANAGER)
    context = tls.server_context(manager.chain_pem, manager.key_pem, None)
    with serving(who_am_i, context, loop_factory=loop_factory) as running:
        assert ask(cluster, running, cluster.issue(Kind.NODE)) == "nobody"
        assert running.registry.total() == 0


def test_plain_listener_knows_nobody(loop_factory: LoopFactory) -> None:
    with serving(who_am_i, None, loop_factory=loop_factory) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=30) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answer = b""
            while chunk := plain.recv(4096):
                answer += chunk
        assert b"nobody" in answer


@pytest.mark.parametrize(
    "header",
    ["x-forwarded-client-cert", "x-client-identity", "strongroom.caller", "ssl-client-cert"],
)
def test_no_header_names_a_caller(cluster: ClusterAuthority, server: Serving, header: str) -> None:
    claims = {header: "spiffe://lab.test/operator/root"}
    answer = ask(cluster, server, cluster.issue(Kind.NODE, "n1"), **claims)
    assert answer == "spiffe://lab.test/node/n1"


def test_scope_without_our_protocol_has_no_caller() -> None:
    assert caller_of({"type": "http"}) is None
    assert caller_of({"state": {"strongroom.caller": "spiffe://lab.test/operator/root"}}) is None


def test_registry_counts_while_connections_live(cluster: ClusterAuthority, server: Serving) -> None:
    who = cluster.issue(Kind.NODE)
    with open_websocket(cluster, server, who) as first, open_websocket(cluster, server, who):
        ask_over(first)
        assert server.call(lambda: server.registry.count(who.fingerprint)) == 2
    server.wait_until(lambda: server.registry.total() == 0)
    assert server.call(lambda: server.registry.count(who.fingerprint)) == 0


def test_a_listener_may_end_while_a_peer_says_goodbye(
    cluster: ClusterAuthority, server: Serving
) -> None:
    def protocol() -> PeerWebSocketProtocol:
        (watched,) = server.registry._by_transport.values()
        found = watched.transport.get_protocol()
        return cast("PeerWebSocketProtocol", found)

    with open_websocket(cluster, server, cluster.issue(Kind.NODE)) as websocket:
        ask_over(websocket)
        served = server.call(protocol)
    server.wait_until(lambda: server.registry.total() == 0)
    assert not served.close_sent
    server.call(served.shutdown)


def test_what_ended_is_let_go_without_the_collector_of_cycles(
    cluster: ClusterAuthority, server: Serving
) -> None:
    """Each keeps tens of kilobytes of TLS's buffers, and the collector comes by seldom."""
    who = cluster.issue(Kind.NODE)

    def known() -> int:
        return sum(issubclass(type(one), PeerHttpProtocol) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = server.call(known)
        ask(cluster, server, who)
        with open_websocket(cluster, server, who) as websocket:
            ask_over(websocket)
            assert server.call(server.registry.total) == 1
        server.wait_until(lambda: server.registry.total() == 0 and known() <= before)
    finally:
        gc.enable()


@pytest.mark.parametrize("by", ["fingerprint", "identity"])
def test_cut_ends_an_open_websocket_at_once_and_no_other(
    cluster: ClusterAuthority, server: Serving, by: str
) -> None:
    thief, other = cluster.issue(Kind.NODE, "thief"), cluster.issue(Kind.NODE, "other")
    with (
        open_websocket(cluster, server, thief) as cut,
        open_websocket(cluster, server, other) as kept,
    ):
        assert ask_over(cut) == "spiffe://lab.test/node/thief"
        registry = server.registry
        if by == "fingerprint":
            ended = server.call(lambda: registry.cut(thief.fingerprint))
        else:
            ended = server.call(lambda: registry.cut_identity("spiffe://lab.test/node/thief"))
        assert ended == 1
        with pytest.raises(ConnectionClosed):
            ask_over(cut)
        assert ask_over(kept) == "spiffe://lab.test/node/other"
        assert server.call(lambda: registry.cut(thief.fingerprint)) == 0


def test_cut_spares_a_renewed_certificate(cluster: ClusterAuthority, server: Serving) -> None:
    """Renewal closes the old session only: the same node's second session stays."""
    old, new = cluster.issue(Kind.NODE, "n1"), cluster.issue(Kind.NODE, "n1")
    with (
        open_websocket(cluster, server, old) as first,
        open_websocket(cluster, server, new) as second,
    ):
        assert server.call(lambda: server.registry.cut(old.fingerprint)) == 1
        with pytest.raises(ConnectionClosed):
            ask_over(first)
        assert ask_over(second) == "spiffe://lab.test/node/n1"


def test_connection_ends_with_its_certificate(
    cluster: ClusterAuthority, loop_factory: LoopFactory
) -> None:
    manager = cluster.issue(Kind.MANAGER)
    short, long = cluster.issue(Kind.NODE), cluster.issue(Kind.NODE, "long", ttl=timedelta(days=1))
    context = tls.server_context(manager.chain_pem, manager.key_pem, cluster.control_der)
    clock = ManualClock(SystemClock().now())
    registry = ConnectionRegistry(TRUST_DOMAIN, clock, look_again_s=0.01)
    with (
        serving(who_am_i, context, loop_factory=loop_factory, registry=registry) as running,
        open_websocket(cluster, running, short) as ending,
        open_websocket(cluster, running, long) as staying,
    ):
        assert ask_over(ending) == "spiffe://lab.test/node/one"
        clock.advance(timedelta(hours=2))
        with pytest.raises(ConnectionClosed):
            ending.recv(timeout=60)
        assert ask_over(staying) == "spiffe://lab.test/node/long"


def test_certificate_that_our_clock_finds_expired_is_refused(
    cluster: ClusterAuthority, loop_factory: LoopFactory
) -> None:
    manager, node = cluster.issue(Kind.MANAGER), cluster.issue(Kind.NODE)
    context = tls.server_context(manager.chain_pem, manager.key_pem, cluster.control_der)
    later = ManualClock(SystemClock().now() + timedelta(hours=2))
    registry = ConnectionRegistry(TRUST_DOMAIN, later)
    with (
        serving(who_am_i, context, loop_factory=loop_factory, registry=registry) as running,
        pytest.raises((OSError, WebSocketException)),
        open_websocket(cluster, running, node) as websocket,
    ):
        ask_over(websocket)


def test_id_of_another_trust_domain_is_refused(cluster: ClusterAuthority, server: Serving) -> None:
    """Control: the same forgery with our trust domain is let in."""
    with open_websocket(cluster, server, cluster.forge(["spiffe://lab.test/node/x"])) as known:
        assert ask_over(known) == "spiffe://lab.test/node/x"
    alien = cluster.forge(["spiffe://other.test/node/x"])
    with (
        pytest.raises((OSError, WebSocketException)),
        open_websocket(cluster, server, alien) as websocket,
    ):
        ask_over(websocket)
    assert server.refused == {Refused.CERTIFICATE: 1}


def more_than(server: Serving, before: int) -> bool:
    return server.refused[Refused.HANDSHAKE] > before


def test_handshake_that_comes_to_nothing_is_counted(
    cluster: ClusterAuthority, server: Serving
) -> None:
    """Without a certificate, with another authority's, and with no TLS at all; a good one is not
    counted.
    """
    assert ask(cluster, server, cluster.issue(Kind.NODE, "n1")) == "spiffe://lab.test/node/n1"
    assert server.refused == {}
    foreign = ClusterAuthority().issue(Kind.NODE, "n1")
    for shown in (None, foreign):
        before = server.refused[Refused.HANDSHAKE]
        with pytest.raises((OSError, ClusterError)):
            ask(cluster, server, shown)
        server.wait_until(partial(more_than, server, before))
    before = server.refused[Refused.HANDSHAKE]
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        server.wait_until(lambda: server.refused[Refused.HANDSHAKE] == before + 1)
    assert set(server.refused) == {Refused.HANDSHAKE}


@pytest.mark.control("T-10", without="cluster/api/peer.py::ConnectionRegistry")
def test_open_connection_outlives_a_revocation_without_the_cut(
    cluster: ClusterAuthority, server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    thief = cluster.issue(Kind.NODE, "thief")
    with open_websocket(cluster, server, thief) as connection:
        assert ask_over(connection) == "spiffe://lab.test/node/thief"
        with monkeypatch.context() as without:
            without.setattr(ConnectionRegistry, "_cut_all", lambda *_: 0)
            server.call(lambda: server.registry.cut(thief.fingerprint))
            assert ask_over(connection) == "spiffe://lab.test/node/thief"
        server.call(lambda: server.registry.cut(thief.fingerprint))
        with pytest.raises(ConnectionClosed):
            ask_over(connection)
