"""Decoders of what a server is asked and what it answers: bodies, local sockets, lines of progress,
and of small files that only their owner writes."""

import ast
import asyncio
import contextlib
import tempfile
from collections.abc import Coroutine, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast

import h11
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from starlette.requests import Request

import cluster.api
from agent import joining as node_joining
from agent import log_keeper, loopback_http, service_logs
from agent.lease_file import LeaseFile
from agent.metrics_listener import MetricsListener
from agent.spiffe.svid import load_svid
from cluster import joining, migrating
from cluster.api import edge, routes_audit
from cluster.cli import admin_socket, events, failures
from cluster.control import version_terms
from cluster.engine.etcd_peers import voters_in
from cluster.pki import audit_statement
from cluster.pki.audit_statement import AuditStatement, StatedHead
from cluster.protocol.errors import ClusterError
from cluster.protocol.https_client import Response
from cluster.protocol.identity import Kind
from cluster.protocol.loopback import parse_loopback_url
from cluster.protocol.undecodable import UNDECODABLE
from cluster.protocol.wire import CERTIFICATE_TARGETS
from tests.fuzz.messages import example
from tests.fuzz.networked import AUTHORITY, NODE, text
from tests.fuzz.stored import on_file
from tests.fuzz.target import CANARY, Target
from tests.support.authority import TRUST_DOMAIN

LOOP: Final = asyncio.new_event_loop()
"""Never runs: what is read is there before it is read."""
LOOP.close()


def finished(work: Coroutine[Any, Any, object]) -> object:
    """Carry out what has nothing to wait for."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    work.close()
    raise AssertionError("it waits for more than it was given")


# --- bodies of requests --------------------------------------------------------------------------


class Body:
    """Stands for a request of which only the body is read."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def body(self) -> bytes:
        """Return what was sent."""
        return self._content


def shapes() -> Iterator[type[msgspec.Struct]]:
    """Yield every type that a route decodes its body as."""
    for path in sorted(Path(cluster.api.__file__).parent.glob("routes_*.py")):
        module = import_module(f"cluster.api.{path.stem}")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "decoded":
                yield getattr(module, ast.unparse(node.args[1]))


SHAPES: Final = tuple(dict.fromkeys(shapes()))


def _bodies(data: bytes) -> None:
    """Decode as every body there is; every one of them must refuse it in the same way."""
    refused = []
    for shape in SHAPES:
        try:
            finished(edge.decoded(cast("Request", Body(data)), shape))
        except ClusterError as error:
            refused.append(error)
    if len(refused) == len(SHAPES):
        raise refused[0]


# --- answers -------------------------------------------------------------------------------------


def _reader(data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(loop=LOOP)
    reader.feed_data(data)
    reader.feed_eof()
    return reader


def _join_answer(data: bytes) -> None:
    """Read what somebody who poses as a manager answers to who joins."""
    node_joining._error(Response(500, {}, data))
    with contextlib.suppress(ClusterError):
        joining._json(Response(500, {}, data))
    joining._json(Response(200, {}, data))
    node_joining._read(Response(200, {}, data))


def _failure(data: bytes) -> None:
    failures.error_of(500, data)


def _loopback_answer(data: bytes) -> None:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=loopback_http.HEAD_LIMIT)
    http.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    finished(loopback_http._read_status(_reader(data), http))


METRICS: Final = MetricsListener(
    parse_loopback_url("http://127.0.0.1:1/"), read=lambda: b"", content_type="text/plain"
)


def _metrics_request(data: bytes) -> None:
    finished(METRICS._answer(_reader(data), h11.Connection(h11.SERVER)))


# --- files ---------------------------------------------------------------------------------------


def _lease(path: Path) -> None:
    LeaseFile(path, CANARY.decode()).load()


def _svid(data: bytes) -> None:
    """Read a service's certificate, key and authorities out of its mount."""
    parts = data.split(b"\0")
    with tempfile.TemporaryDirectory(prefix="sr-fuzz-") as place:
        generation = Path(place) / "..one"
        generation.mkdir()
        (Path(place) / "..data").symlink_to(generation.name)
        for number, target in enumerate(CERTIFICATE_TARGETS):
            (generation / target).write_bytes(parts[number] if number < len(parts) else b"")
        load_svid(Path(place))


def _signed_checkpoint(data: bytes) -> None:
    audit_statement.proven(data, AUTHORITY.control_der, TRUST_DOMAIN)


def _stated(data: bytes) -> None:
    """Read what a manager signed: only who holds its key gets so far."""
    audit_statement._statement(data)


_LEASE: Final = b'{"boot_id":"c4n4ry77","sent_s":1.5,"lease_s":60.0}'
_PROBLEM: Final = b'{"code":"not_found","message":"c4n4ry77"}'
_REPLY: Final = msgspec.json.encode(
    {
        "node_id": CANARY.decode(), "trust_domain": "t", "certificate_chain": [NODE.der],
        "bundle": AUTHORITY.bundle().to_dict(), "managers": ["m:1"], "join_addresses": ["m:2"],
    }
)  # fmt: skip
_LINE: Final = b'{"error":{"code":"conflict","message":"c4n4ry77"}}'
_TOMBSTONE: Final = msgspec.json.encode(
    migrating.Tombstone("17", f"1.{CANARY.decode()}", 3, "ab" * 32, 1.5)
)
_KEPT: Final = b'[{"at_s":1.5,"time_s":2.5,"stream":"out","text":"c4n4ry77"}]'
_MEMBERS: Final = b'[{"peerURLs":["https://c4n4ry77:1"],"isLearner":false}, {"isLearner":true}]'
_OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: c4n4ry77\r\n\r\n"
_GET: Final = b"GET /metrics HTTP/1.1\r\nhost: c4n4ry77\r\n\r\n"
_STATED: Final = AuditStatement(
    cluster_id=CANARY.decode(), trust_domain=TRUST_DOMAIN, manager_id="m1",
    at=AUTHORITY.clock.now().timestamp(), incarnation_counter=1, incarnation_unique="a",
    revision=7, checkpoint=0, chains=(StatedHead(f"audit/m1/{CANARY.decode()}/0", 3, "ab" * 32),),
)  # fmt: skip
_SIGNER: Final = AUTHORITY.issue(Kind.MANAGER, "m1")
_SIGNED: Final = audit_statement.sign(
    _STATED, _SIGNER.key_pem, _SIGNER.chain_pem, AUTHORITY.root_der
)
_JSON_WORDS: Final = (b"\xff", b"[" * 3000, b"9" * 5000, b"1e999", b"null", b"[]", b"{}")
_ROOT: Final = x509.load_der_x509_certificate(AUTHORITY.root_der).public_bytes(Encoding.PEM)
_MOUNT: Final = b"\0".join((NODE.chain_pem, NODE.key_pem, _ROOT))

TARGETS: Final = (
    Target(
        "bodies", _bodies, tuple(msgspec.json.encode(example(shape)) for shape in SHAPES),
        words=_JSON_WORDS,
    ),
    Target("audit-moment", text(routes_audit._moment), (b"2026-01-31T12:00:00+23:59", CANARY)),
    Target("expiry-moment", text(version_terms._parsed), (b"0001-01-01", b"9999-12-31", CANARY)),
    Target("join-answer", _join_answer, (_PROBLEM, _REPLY)),
    Target("failure", _failure, (_PROBLEM, b"[" * 3000)),
    # A manager's own words follow, which are shown.
    Target("progress-line", admin_socket._step, (b'{"step":"x"}', _LINE), may_echo=True,
           words=_JSON_WORDS),
    Target("event-line", events._parsed, (b'{"type":"x"}', _LINE), may_echo=True,
           words=_JSON_WORDS),
    Target("loopback-answer", _loopback_answer, (_OK, b"HTTP/1.1 100 c4n4ry77\r\n\r\n" + _OK)),
    Target("metrics-request", _metrics_request, (_GET, _GET + CANARY)),
    Target(
        "keeper-request", log_keeper._asked, (b'{"after":1,"last":true}\n', b'{"after":1e999}'),
        declared=(ValueError,), words=_JSON_WORDS,
    ),
    Target(
        "kept-lines", service_logs._lines, (_KEPT,), declared=UNDECODABLE,
        may_echo=True,  # the caller logs the error's class alone
    ),
    Target("lease", on_file(_lease), (_LEASE,)),
    Target("tombstone", text(migrating.moved_to), (_TOMBSTONE,)),
    Target(
        "engine-members", voters_in, (_MEMBERS,), declared=(ValueError,), words=_JSON_WORDS,
    ),
    Target("svid", _svid, (_MOUNT,)),
    Target("signed-checkpoint", _signed_checkpoint, (_SIGNED,), words=_JSON_WORDS),
    Target("signed-checkpoint-payload", _stated, (msgspec.json.encode(_STATED),),
           words=_JSON_WORDS),
)  # fmt: skip
