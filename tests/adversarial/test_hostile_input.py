"""Hostile sizes and malformed messages on every listener of a real manager and agent.

After each attack the same listener must serve on, no request may have failed inside, and nothing
that was sent comes back or is logged.
"""

import json
import random
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI

from cluster.protocol import wire
from cluster.protocol.https_client import request
from tests.support.attacker import (
    RawSession,
    answer_of,
    bare,
    hello,
    join_node,
    open_files,
    tls_connection,
)
from tests.support.running import (
    TRUST_DOMAIN,
    Credential,
    RunningCluster,
    running_cluster,
    wait_until,
)
from tests.support.serving import serving

pytestmark = pytest.mark.threat("T-16")

CANARY = "c4n4ry-9f1e77d2"
DEEP = b"[" * 100_000 + b"]" * 100_000
HOST = b"host: x\r\nconnection: close\r\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    with running_cluster(agents=1) as cluster:
        cluster.create_secret("held", b"held-value")
        cluster.create_service("red", 20_003, "held")
        yield cluster
        failed = [
            line for line in cluster.managers[0].text().splitlines() if "request.failed" in line
        ]
        assert failed == [], "a request failed inside the manager"
        assert CANARY not in cluster.managers[0].text() + cluster.agents[0].text()


@pytest.fixture(autouse=True)
def serves_on(cluster: RunningCluster) -> Iterator[None]:
    """Whatever a test does, operators, strangers and the agent are served after it."""
    yield
    assert cluster.call("GET", "/v1/status").status == 200
    assert cluster.node("n1")["state"] == "ready"
    assert cluster.agents[0].read("red", "held") == b"held-value"
    assert all(process.running for process in (*cluster.managers, *cluster.agents))


def listeners(cluster: RunningCluster) -> dict[str, Callable[[], socket.socket]]:
    """Return how to connect to each listener that speaks HTTP."""
    manager = cluster.managers[0]
    assert cluster.operator is not None
    operator, stranger = cluster.operator.context(), bare(cluster).context()

    def admin() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(30)
        connection.connect(str(manager.admin_socket))
        return connection

    return {
        "api": lambda: tls_connection(manager.api, operator),
        "join": lambda: tls_connection(manager.join, stranger, source="127.0.0.9"),
        "admin": admin,
    }


RAW_REQUESTS = {
    "garbage": bytes(range(256)) * 16,
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "long-path": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "many-headers": b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 50_000 + HOST + b"\r\n",
    "many-parameters": b"GET /v1/secrets?" + b"label&" * 10_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "endless-header": b"GET / HTTP/1.1\r\nx: " + b"a" * 2_000_000,
    "nul-path": b"GET /v1/secrets/%00%00 HTTP/1.1\r\n" + HOST + b"\r\n",
    "dots": b"GET /v1/../v1/secrets/..%2f..%2fetc%2fpasswd HTTP/1.1\r\n" + HOST + b"\r\n",
    "bad-utf8-path": b"GET /v1/secrets/%ff%fe?name=%ff HTTP/1.1\r\n" + HOST + b"\r\n",
    "negative-length": b"POST /v1/enrol HTTP/1.1\r\ncontent-length: -1\r\n" + HOST + b"\r\n",
    "huge-length": b"POST /v1/enrol HTTP/1.1\r\ncontent-length: 99999999999\r\n" + HOST + b"\r\n",
    "two-lengths": b"POST /v1/enrol HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n"
    + HOST
    + b"\r\nab",
    "smuggled": b"POST /v1/enrol HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n"
    + HOST
    + b"\r\n0\r\n\r\nGET /readyz HTTP/1.1\r\n\r\n",
    "bad-chunk": b"POST /v1/enrol HTTP/1.1\r\ntransfer-encoding: chunked\r\n"
    + HOST
    + b"\r\nzz\r\n",
    "websocket-elsewhere": b"GET /v1/secrets HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\n"
    b"connection: upgrade\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
}


@pytest.mark.parametrize("listener", ["api", "join", "admin"])
@pytest.mark.parametrize("name", RAW_REQUESTS)
def test_malformed_request_is_refused(cluster: RunningCluster, listener: str, name: str) -> None:
    with listeners(cluster)[listener]() as connection:
        answer = answer_of(connection, RAW_REQUESTS[name])
    # Nothing at all, or a refusal; never success, never a failure inside.
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:200]


def test_well_formed_request_is_answered(cluster: RunningCluster) -> None:
    """The control: the tooling of these attacks reaches each listener."""
    paths = {"api": b"/openapi.json", "join": b"/healthz", "admin": b"/admin/status"}
    for listener, path in paths.items():
        with listeners(cluster)[listener]() as connection:
            answer = answer_of(connection, b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 200"), (listener, answer[:200])


def test_plain_text_to_a_tls_port_ends_there(cluster: RunningCluster) -> None:
    for address in (cluster.managers[0].api_port, cluster.managers[0].join_port):
        with socket.create_connection(("127.0.0.1", address), timeout=30) as plain:
            assert b"HTTP" not in answer_of(plain, b"GET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_large_bodies_are_refused_unread(cluster: RunningCluster, chunked: bool) -> None:
    """Before a stranger's second block is read, and an operator's after his limit."""
    for listener, path in (("join", b"/v1/join"), ("api", b"/v1/services")):
        size = 3_000_000
        framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % size
        head = b"POST " + path + b" HTTP/1.1\r\n" + framing + b"\r\n" + HOST + b"\r\n"
        body = b"a" * size if not chunked else b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"a" * size)
        with listeners(cluster)[listener]() as connection:
            answer = answer_of(connection, head + body)
        assert b"200" not in answer[:20]


def test_slow_strangers_are_thrown_out_and_do_not_block_others(cluster: RunningCluster) -> None:
    """From one address as many unfinished requests as there is room for; another is served."""
    unfinished = b"POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
    context = bare(cluster).context()
    address = cluster.managers[0].join
    before = open_files(cluster.managers[0].pid)
    held: list[ssl.SSLSocket] = []
    for _ in range(45):  # within the rate of one address
        connection = tls_connection(address, context, source="127.0.0.8")
        connection.sendall(unfinished)
        held.append(connection)
    with tls_connection(address, context) as other:
        ready = b"GET /readyz HTTP/1.1\r\n" + HOST + b"\r\n"
        assert answer_of(other, ready).startswith(b"HTTP/1.1 200")
    assert all(answer_of(connection, b"")[:12] in {b"", b"HTTP/1.1 429"} for connection in held)
    for connection in held:
        connection.close()
    pid = cluster.managers[0].pid
    wait_until(lambda: open_files(pid) <= before + 5, "the manager closed every descriptor")


def test_strangers_have_a_rate(cluster: RunningCluster) -> None:
    """One address is refused before any work once it asks too often; another is served."""
    context, address = bare(cluster).context(), cluster.managers[0].join
    ask = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    with tls_connection(address, context, source="127.0.0.7") as connection:
        connection.sendall(ask * 80)
        answer = b""
        while b"429" not in answer:
            answer += connection.recv(65_536)
    assert b"200" in answer
    with tls_connection(address, context) as other:
        assert (
            answer_of(other, ask.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))[9:12]
            == b"200"
        )


# --- the session ---------------------------------------------------------------------------------

FRAMES: dict[str, list[wire.FromAgent | bytes | str]] = {
    "text": ["hello"],
    "text-later": [hello(), "hello"],
    "empty": [b""],
    "ack-first": [wire.Ack(wire.RevisionPair(0, "", 0), ())],
    "two-hellos": [hello(), hello()],
    "unknown-tag": [msgspec.msgpack.encode({"type": "root"})],
    "not-a-map": [msgspec.msgpack.encode([1, 2, 3])],
    "deep": [b"\x91" * 100_000 + b"\xc0"],
    "announced-length": [b"\xdf\xff\xff\xff\xff"],
    "bad-utf8": [wire.encode(hello()).replace(b"kernel", b"\xff\xfe\xfd\xfc\xfb\xfa")],
    "unknown-format": [hello(formats=(99,))],
    "manager's-message": [wire.encode(wire.Wipe("evicted"))],
    "too-large": [b"\xc6" + bytes(2 * wire.MAX_AGENT_MESSAGE_BYTES)],
    "bad-csr": [hello(), *([wire.SigningRequest(b"\x30\x80" * 1000)] * 6)],
}


@pytest.mark.parametrize("name", FRAMES)
def test_malformed_session_ends(cluster: RunningCluster, name: str) -> None:
    session = RawSession(cluster.managers[0], node(cluster))
    for frame in FRAMES[name]:
        session.send(frame)
    rest = session.rest()
    allowed = (wire.Welcome, wire.Refusal, wire.Snapshot, wire.Values)
    assert all(isinstance(message, allowed) for message in rest)


def test_random_frames_end_sessions_and_nothing_else(cluster: RunningCluster, seed: int) -> None:
    draw = random.Random(seed)
    whole = wire.encode(hello(held=(wire.VersionKey("a" * 26, 1),)))
    for _ in range(20):
        session = RawSession(cluster.managers[0], node(cluster))
        changed = bytearray(whole)
        for _ in range(draw.randrange(1, 6)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        session.send(bytes(changed))
        session.send(draw.randbytes(draw.randrange(300)))
        session.rest()


def test_claims_beyond_measure_change_nothing(cluster: RunningCluster) -> None:
    """A node says that it holds 10,000 versions it never got, of services not its own."""
    keys = tuple(wire.VersionKey(f"{number:026}", number) for number in range(10_000))
    session = RawSession(cluster.managers[0], node(cluster))
    session.hello(held=keys)
    result = wire.ServiceResult(service_of(cluster), keys, "e" * 100_000, 2**40)
    for _ in range(3):
        session.send(wire.Ack(wire.RevisionPair(0, "", 0), (result,), ("x",)))
    session.send(wire.LeaseRequest(7))
    while not isinstance(message := session.receive(), wire.Lease):
        assert message is not None, "the session ended"
    session.close()
    (task,) = cluster.ok("GET", "/v1/services/red/tasks")["tasks"]
    assert [one["version_mounted"] for one in task["references"]] == [1]
    assert task.get("error", "") == ""


def node(cluster: RunningCluster) -> Credential:
    """Return the certificate of a node that has no agent."""
    if "hostile" not in _NODES or _NODES["hostile"][0] is not cluster:
        _NODES["hostile"] = (cluster, join_node(cluster, "hostile")[0])
    return _NODES["hostile"][1]


_NODES: dict[str, tuple[RunningCluster, Credential]] = {}


def service_of(cluster: RunningCluster) -> str:
    return str(cluster.ok("GET", "/v1/services/red")["id"])


# --- what is echoed ------------------------------------------------------------------------------

JSON_ROUTES = (
    ("api", "PATCH", "/v1/secrets/held/labels"),
    ("api", "POST", "/v1/services"),
    ("api", "PUT", "/v1/services/red"),
    ("api", "PATCH", "/v1/nodes/n1"),
    ("api", "POST", "/v1/tokens"),
    ("api", "POST", "/v1/operators"),
    ("api", "POST", "/v1/renew"),
    ("api", "POST", "/v1/issue"),
    ("join", "POST", "/v1/join"),
    ("join", "POST", "/v1/return"),
    ("join", "POST", "/v1/enrol"),
    ("join", "POST", "/v1/join-manager"),
    ("admin", "POST", "/admin/init"),
    ("admin", "POST", "/admin/join"),
    ("admin", "POST", "/admin/unlock"),
    ("admin", "POST", "/admin/operator-renew"),
)
BODIES: tuple[object, ...] = (
    {"valeu": CANARY},
    {CANARY: CANARY},
    {f" - at `$.{CANARY}`": 1},
    CANARY,
    [CANARY],
    {"role": CANARY, "token": CANARY, "csr": CANARY, "spec": CANARY, "add": CANARY},
    {"role": CANARY},
    {"availability": CANARY},
    {"csr": CANARY},
    {"token": CANARY, "csr": "AAAA", "name": "n"},
    {"unlock_key": CANARY},
    {"unlock_key": CANARY, "token": "t", "managers": []},
    {"unlock_key": CANARY, "engine": CANARY, "trust_domain": "t", "operator": "o", "csr": ""},
    {"add": {"a": {"b": CANARY}}},
    {"name": "x", "references": [{"source": CANARY, "valeu": CANARY}]},
    {"name": "x", "references": [{"source": "held", "mode": CANARY}]},
    {"name": "x", "references": [{"source": "held", "version": CANARY}]},
    {"name": "x", "on_change": {"signal": CANARY}},
    {"name": "x", "on_change": {"comand": [CANARY]}},
)


@pytest.mark.threat("T-17")
@pytest.mark.parametrize(("listener", "method", "path"), JSON_ROUTES)
def test_body_that_does_not_fit_is_not_echoed(
    cluster: RunningCluster, listener: str, method: str, path: str
) -> None:
    bodies = [json.dumps(body).encode() for body in BODIES]
    bodies += [CANARY.encode(), b'{"' + CANARY.encode(), CANARY.encode() + b"\xff", DEEP]
    for number, body in enumerate(bodies):
        answer, headers = send(cluster, listener, method, path, body, number)
        assert b'"code"' in answer, (body[:80], answer)
        assert CANARY.encode() not in answer + headers, body[:80]


@pytest.mark.threat("T-17")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/v1/rollouts/aaaa?wait={CANARY}"),
        ("POST", f"/v1/secrets?nmae={CANARY}"),
        ("POST", f"/v1/secrets?name=..%2f{CANARY}"),
        ("POST", f"/v1/secrets?name=new&label={CANARY}"),
        ("POST", f"/v1/secrets?name=new&label=a=b&label=a={CANARY}"),
        ("GET", f"/{CANARY}"),
        (CANARY.upper(), "/v1/status"),
    ],
)
def test_request_that_does_not_fit_is_not_echoed(
    cluster: RunningCluster, method: str, path: str
) -> None:
    for body in (b"", CANARY.encode()):
        answer, headers = send(cluster, "api", method, path, body, 0)
        assert b"4" in headers[:12]
        assert CANARY.encode() not in (answer + headers).lower()


@pytest.mark.threat("T-17")
@pytest.mark.parametrize("header", ["strongroom-revision", "strongroom-request-id"])
def test_header_that_does_not_fit_is_not_echoed(cluster: RunningCluster, header: str) -> None:
    assert cluster.operator is not None
    answer = request(
        [cluster.managers[0].api], "POST", "/v1/tokens", body=b'{"role":"worker"}',
        headers={header: CANARY}, context=cluster.operator.context(), trust_domain=TRUST_DOMAIN,
    )  # fmt: skip
    assert answer.status == 400
    assert CANARY.encode() not in answer.body


@pytest.mark.threat("T-17")
def test_value_is_not_echoed_when_it_is_refused(cluster: RunningCluster) -> None:
    """Too large, for no secret, for a name that is taken."""
    value = (CANARY * 40_000).encode()
    assert len(value) > 512_000
    for path, body in (
        ("/v1/secrets?name=large", value[:512_000]),
        ("/v1/secrets?name=large", value),
        ("/v1/secrets?name=held", CANARY.encode()),
        ("/v1/secrets/no-such/versions", CANARY.encode()),
        ("/v1/secrets?name=", CANARY.encode()),
    ):
        answer, headers = send(cluster, "api", "POST", path, body, 0)
        assert CANARY.encode() not in answer + headers
        assert b'"code"' in answer


@pytest.mark.threat("T-17")
@pytest.mark.control("T-17", without="cluster/api/error_map.py::install")
def test_framework_alone_would_echo() -> None:
    """The control: the same misspelt field, answered by FastAPI's own handler."""
    app: Any = FastAPI()  # its ASGI types and ours differ in name only

    async def create(body: dict[str, int]) -> None:
        """Take whatever fits."""

    app.add_api_route("/", create, methods=["POST"])
    content = json.dumps({"valeu": CANARY}).encode()
    head = b"POST / HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    sent = head % len(content) + HOST + b"\r\n" + content
    with (
        serving(app, None) as running,
        socket.create_connection(("127.0.0.1", running.port), timeout=30) as plain,
    ):
        answer = answer_of(plain, sent)
    assert answer.startswith(b"HTTP/1.1 422")
    assert CANARY.encode() in answer


def send(
    cluster: RunningCluster, listener: str, method: str, path: str, body: bytes, number: int
) -> tuple[bytes, bytes]:
    """Return body and head of an answer; strangers come from many addresses, for their rate."""
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    sent = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    manager = cluster.managers[0]
    if listener == "join":
        source = f"127.0.1.{number + 1}"
        opened: socket.socket = tls_connection(manager.join, bare(cluster).context(), source)
    else:
        opened = listeners(cluster)[listener]()
    with opened as connection:
        headers, _, answer = answer_of(connection, sent).partition(b"\r\n\r\n")
    return answer, headers
