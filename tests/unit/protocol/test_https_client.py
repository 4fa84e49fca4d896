"""One exchange with a manager: what goes, what comes back, what each way of failing means."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from cluster.api.peer import ConnectionRegistry
from cluster.pki import tls
from cluster.protocol import https_client
from cluster.protocol.errors import (
    ClusterError,
    InvalidRequest,
    MalformedMessage,
    OutcomeUnknown,
    PayloadTooLarge,
    Unauthenticated,
    Unavailable,
)
from cluster.protocol.https_client import request, stream_lines
from cluster.protocol.identity import Kind
from cluster.system import SystemClock
from tests.support.authority import TRUST_DOMAIN, ClusterAuthority
from tests.support.serving import Receive, Scope, Send, Serving, serving

CANARY = b"canary-7f3a9b"


@contextlib.contextmanager
def answering(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Accept one connection on a unix socket, read a request's head and do as `answer` does."""
    listening = socket.socket(socket.AF_UNIX)
    listening.settimeout(30)
    listening.bind(str(path))
    listening.listen()

    def accept() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(30)
            received = b""
            while b"\r\n\r\n" not in received:
                received += connection.recv(65_536)
            with contextlib.suppress(OSError):
                answer(connection)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"unix:{path}"
    finally:
        thread.join(30)
        listening.close()


def says(raw: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(raw)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = dict(scope["headers"])
    status = int(headers.get(b"wanted-status", b"200"))
    returned = [(b"was", scope["method"].encode() + b" " + scope["path"].encode())]
    await send({"type": "http.response.start", "status": status, "headers": returned})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def cluster() -> ClusterAuthority:
    return ClusterAuthority()


@pytest.fixture(scope="module")
def server(cluster: ClusterAuthority) -> Iterator[Serving]:
    manager = cluster.issue(Kind.MANAGER)
    context = tls.server_context(manager.chain_pem, manager.key_pem, None)
    with serving(echo, context) as running:
        yield running


@pytest.mark.parametrize("size", [0, 1, 700_000])
def test_body_goes_and_comes_back(cluster: ClusterAuthority, server: Serving, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    answer = request(
        [server.endpoint],
        "POST",
        "/v1/echo",
        body=body,
        context=tls.client_context(cluster.control_der),
        trust_domain=TRUST_DOMAIN,
    )
    assert (answer.status, answer.headers["was"], answer.body) == (200, "POST /v1/echo", body)


def test_refusal_is_an_answer(cluster: ClusterAuthority, server: Serving) -> None:
    """What a status means is for the caller to say."""
    answer = request(
        [server.endpoint],
        "GET",
        "/",
        headers={"wanted-status": "403"},
        context=tls.client_context(cluster.control_der),
    )
    assert answer.status == 403


def test_answer_does_not_show_its_body() -> None:
    assert CANARY.decode() not in repr(https_client.Response(200, {}, CANARY))


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return f"127.0.0.1:{bound.getsockname()[1]}"


def test_next_manager_is_asked_when_one_is_down(
    cluster: ClusterAuthority, server: Serving, tmp_path: Path
) -> None:
    answer = request(
        [closed_port(), f"unix:{tmp_path / 'missing'}", server.endpoint],
        "GET",
        "/",
        context=tls.client_context(cluster.control_der),
    )
    assert answer.status == 200


def test_nobody_answering_names_every_address(cluster: ClusterAuthority) -> None:
    down = [closed_port(), closed_port()]
    with pytest.raises(Unavailable) as caught:
        request(down, "GET", "/", context=tls.client_context(cluster.control_der))
    assert all(address in caught.value.message for address in down)
    with pytest.raises(Unavailable, match="no address given"):
        request([], "GET", "/")


@pytest.mark.parametrize(
    "endpoint", ["manager1", ":7443", "manager1:", "manager1:x", "m:٣", "m:65536", "a..b:1"]
)
def test_malformed_address_is_refused(cluster: ClusterAuthority, endpoint: str) -> None:
    with pytest.raises(InvalidRequest):
        request([endpoint], "GET", "/", context=tls.client_context(cluster.control_der))


def test_no_plain_connection_leaves_the_machine(server: Serving) -> None:
    with pytest.raises(InvalidRequest, match="TLS only"):
        request([server.endpoint], "GET", "/")


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/a\r\nx: y", {}), ("/a b", {}), ("/", {"x": "a\r\ny: b"}), ("/", {"x y": "z"})],
    ids=str,
)
def test_nothing_can_be_slipped_into_the_head(
    tmp_path: Path, path: str, headers: dict[str, str]
) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        with pytest.raises(InvalidRequest):
            request([f"unix:{tmp_path / 's'}"], "GET", path, headers=headers)


def test_admin_socket_takes_plain_http(tmp_path: Path) -> None:
    raw = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    with answering(tmp_path / "s", says(raw)) as endpoint:
        assert request([endpoint], "GET", "/").body == b"ok"


def test_lines_arrive_as_they_are_sent(tmp_path: Path) -> None:
    """The second line is sent only after the first was read."""
    first_was_read = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.sendall(b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\n{"a":1\r\n')
        connection.sendall(b"2\r\n}\n\r\n")
        first_was_read.wait(30)
        connection.sendall(b'7\r\n{"b":2}\r\n0\r\n\r\n')

    with (
        answering(tmp_path / "s", answer) as endpoint,
        stream_lines([endpoint], "POST", "/") as stream,
    ):
        lines = stream.lines()
        assert next(lines) == b'{"a":1}'
        first_was_read.set()
        assert list(lines) == [b'{"b":2}']


BROKEN = [
    b"",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
    b"not http at all\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000 + b"\r\n\r\n",
]


@pytest.mark.parametrize("raw", BROKEN, ids=[str(raw[:40]) for raw in BROKEN])
@pytest.mark.parametrize(
    ("method", "meaning"), [("GET", (MalformedMessage, Unavailable)), ("POST", OutcomeUnknown)]
)
def test_broken_answer_leaves_a_change_unknown(
    tmp_path: Path,
    raw: bytes,
    method: str,
    meaning: type[ClusterError] | tuple[type[ClusterError], ...],
) -> None:
    with answering(tmp_path / "s", says(raw)) as endpoint, pytest.raises(meaning) as caught:
        request([endpoint], method, "/", body=CANARY)
    shown = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert CANARY.decode() not in shown


@pytest.mark.parametrize(("method", "meaning"), [("GET", Unavailable), ("PUT", OutcomeUnknown)])
def test_silence_ends_in_time(tmp_path: Path, method: str, meaning: type[ClusterError]) -> None:
    gone = threading.Event()

    def say_nothing(_connection: socket.socket) -> None:
        gone.wait(30)

    with answering(tmp_path / "s", say_nothing) as endpoint:
        with pytest.raises(meaning):
            request([endpoint], method, "/", timeout_s=0.05)
        gone.set()


def test_dripping_answer_ends_by_the_clock(tmp_path: Path) -> None:
    """Each wait is short, their sum is not: the lent clock moves a second per look."""
    seconds = iter(range(1000))

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n")
        pause = threading.Event()
        while True:
            connection.sendall(b".")
            pause.wait(0.001)

    with answering(tmp_path / "s", answer) as endpoint, pytest.raises(Unavailable, match="in time"):
        request([endpoint], "GET", "/", timeout_s=30, monotonic_s=lambda: float(next(seconds)))


def test_answer_without_end_is_cut(tmp_path: Path) -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        while True:
            connection.sendall(bytes(65_536))

    with answering(tmp_path / "a", answer) as endpoint, pytest.raises(PayloadTooLarge):
        request([endpoint], "GET", "/")
    with (
        answering(tmp_path / "b", answer) as endpoint,
        pytest.raises(PayloadTooLarge),
        stream_lines([endpoint], "GET", "/") as stream,
    ):
        next(stream.lines())


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_refused_certificate_is_told_from_a_lost_answer(
    cluster: ClusterAuthority, method: str
) -> None:
    """A change that a refused caller asked for has not happened, and he is told what to mend."""
    manager, stranger = cluster.issue(Kind.MANAGER), ClusterAuthority().issue(Kind.NODE)
    closed = tls.server_context(manager.chain_pem, manager.key_pem, cluster.control_der)
    refused = tls.client_context(cluster.control_der, stranger.chain_pem, stranger.key_pem)
    with serving(echo, closed) as running, pytest.raises(Unauthenticated, match="expired"):
        request([running.endpoint], method, "/", context=refused, trust_domain=TRUST_DOMAIN)


def test_answer_lost_by_a_manager_that_accepts_us_is_unknown(cluster: ClusterAuthority) -> None:
    manager, node = cluster.issue(Kind.MANAGER), cluster.issue(Kind.NODE)
    context = tls.server_context(manager.chain_pem, manager.key_pem, cluster.control_der)
    client = tls.client_context(cluster.control_der, node.chain_pem, node.key_pem)
    registry = ConnectionRegistry(TRUST_DOMAIN, SystemClock())

    async def cut_changes(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            registry.cut(node.fingerprint)
        await echo(scope, receive, send)

    with serving(cut_changes, context, registry=registry) as running:
        assert request([running.endpoint], "GET", "/", context=client).status == 200
        with pytest.raises(OutcomeUnknown):
            request([running.endpoint], "POST", "/", context=client)


def test_early_refusal_of_a_large_body_is_heard(cluster: ClusterAuthority) -> None:
    """The manager answers before it has read everything, and closes."""

    async def too_large(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    manager = cluster.issue(Kind.MANAGER)
    context = tls.server_context(manager.chain_pem, manager.key_pem, None)
    client = tls.client_context(cluster.control_der)
    with serving(too_large, context, loop_factory=uvloop.new_event_loop) as running:
        answer = request([running.endpoint], "POST", "/", body=bytes(4_000_000), context=client)
    assert answer.status == 413
