"""Limits before any work: nobody's requests shut out another's."""

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from types import FrameType
from typing import Annotated, Any, TypeVar

import pytest
import structlog
from fastapi import APIRouter, FastAPI, Query
from fastapi import Request as Asked
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from cluster.api.application import QUERY_PARAMETERS, application
from cluster.api.error_map import json_response
from cluster.api.limited_log import LimitedLog
from cluster.api.limits import Limits, Rate, RateLimiter
from cluster.api.refused import Refused
from cluster.protocol.errors import PayloadTooLarge
from cluster.protocol.identity import Kind as IdentityKind
from tests.support.clock import ManualClock
from tests.unit.api.lab import Answer, ask, caller_of

pytestmark = pytest.mark.threat("T-16")

T = TypeVar("T")

PLENTY = Rate(per_s=1_000, burst=1_000)


class Edge:
    """The middleware in front of an application whose requests last as long as wanted."""

    def __init__(self, rate: Rate = PLENTY, sessions: Rate = PLENTY, concurrency: int = 8) -> None:
        self.clock = ManualClock()
        self.seen: list[str] = []
        self.refused: Counter[Refused] = Counter()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.limits = Limits(
            self.application,
            RateLimiter(rate, self.clock),
            RateLimiter(sessions, self.clock),
            concurrency,
            lambda _path: 10,
            LimitedLog(self.clock, "api"),
            self.count,
        )

    def count(self, why: Refused) -> None:
        self.refused[why] += 1

    async def application(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self.seen.append(scope["client"][0])
        await receive()
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask(
        self,
        address: str = "10.0.0.1",
        kind: str = "http",
        length: bytes = b"0",
        body: bytes = b"",
        as_: str = "",
    ) -> int:
        """Return the status; 403 for a WebSocket that is closed before it is accepted."""
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        headers = [(b"content-length", length)]
        caller = caller_of(IdentityKind.OPERATOR, as_) if as_ else None
        scope = {
            "type": kind, "path": "/", "client": (address, 1), "headers": headers,
            "state": {"strongroom.caller": caller},
        }  # fmt: skip
        await self.limits(scope, receive, send)
        return 403 if sent[0]["type"] == "websocket.close" else int(sent[0]["status"])


async def test_rate_is_per_caller_and_comes_back() -> None:
    edge = Edge(rate=Rate(per_s=1, burst=3))
    assert [await edge.ask() for _ in range(5)] == [200, 200, 200, 429, 429]
    assert await edge.ask("10.0.0.2") == 200
    edge.clock.advance(2)
    assert [await edge.ask() for _ in range(3)] == [200, 200, 429]
    assert len(edge.seen) == 6
    assert edge.refused == {Refused.RATE: 3}


async def test_one_callers_slow_requests_leave_room_for_others() -> None:
    edge = Edge(concurrency=8)
    edge.go_on.clear()
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(edge.ask())
        await asyncio.sleep(0)
        assert await edge.ask() == 429
        other = group.create_task(edge.ask("10.0.0.2"))
        await asyncio.sleep(0)
        edge.go_on.set()
    assert other.result() == 200
    assert await edge.ask() == 200
    assert edge.refused == {Refused.CONCURRENCY: 1}


@pytest.mark.parametrize("length", [b"11", b"99999999999999999999999", b"-1", b"1e3", b""])
async def test_declared_size_is_refused_unread(length: bytes) -> None:
    edge = Edge()
    assert await edge.ask(length=length) == 413
    assert edge.seen == []
    assert edge.refused == {Refused.BODY: 1}


async def test_body_that_grows_past_its_size_is_counted_once() -> None:
    edge = Edge()
    with pytest.raises(PayloadTooLarge):
        await edge.ask(body=b"x" * 11)
    assert edge.refused == {Refused.BODY: 1}
    assert await edge.ask(body=b"x" * 10) == 200
    assert edge.refused == {Refused.BODY: 1}


async def test_sessions_have_a_rate_of_their_own() -> None:
    edge = Edge(sessions=Rate(per_s=1, burst=2))
    answers = [await edge.ask(kind="websocket") for _ in range(3)]
    assert answers[2] == 403
    assert 403 not in answers[:2]
    assert await edge.ask() == 200
    assert edge.refused == {Refused.SESSIONS: 1}


@pytest.mark.parametrize(
    ("reason", "sent"),
    [("rate", {}), ("sessions", {"kind": "websocket"}), ("body", {"length": b"11"})],
)
async def test_caller_over_a_limit_of_his_own_is_named(reason: str, sent: dict[str, Any]) -> None:
    """A flood of reads or of sessions is in no other line of the log."""
    allowed = 0 if reason == "body" else 2
    edge = Edge(Rate(per_s=1, burst=2), Rate(per_s=1, burst=2))
    with structlog.testing.capture_logs() as events:
        for _ in range(allowed):
            await edge.ask(as_="ada", **sent)
        assert events == []
        for _ in range(3):
            assert await edge.ask(as_="ada", **sent) >= 403
    assert [(one["event"], one["caller"]) for one in events] == [
        ("request.limited", "spiffe://lab.example/operator/ada")
    ]
    assert events[0]["reason"] == reason


async def test_who_fills_his_half_is_named_and_who_finds_no_room_is_not() -> None:
    edge = Edge(concurrency=8)
    edge.go_on.clear()
    with structlog.testing.capture_logs() as events:
        async with asyncio.TaskGroup() as group:
            for name in ("ada", "bob"):
                for _ in range(4):
                    group.create_task(edge.ask(as_=name))
            await asyncio.sleep(0)
            assert await edge.ask(as_="eve") == 429
            assert events == []
            assert await edge.ask(as_="ada") == 429
            edge.go_on.set()
    assert [(one["caller"], one["reason"]) for one in events] == [
        ("spiffe://lab.example/operator/ada", "concurrency")
    ]
    assert edge.refused == {Refused.CONCURRENCY: 2}


async def test_callers_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of addresses costs a bounded table."""
    limiter = RateLimiter(Rate(per_s=1, burst=1), ManualClock())
    monkeypatch.setattr("cluster.api.limits.CALLERS_REMEMBERED", 100)
    remembered: Callable[[], int] = lambda: len(limiter._buckets)  # noqa: E731
    for number in range(1_000):
        assert limiter.allow(str(number))
    assert remembered() == 100
    assert not limiter.allow("999")


async def test_ipv6_host_has_one_rate_for_its_whole_network() -> None:
    """It can call from 2**64 addresses."""
    edge = Edge(rate=Rate(per_s=1, burst=2))
    asked = [await edge.ask(f"2001:db8::{number}") for number in range(3)]
    assert asked == [200, 200, 429]
    assert await edge.ask("2001:db8:0:1::1") == 200


@pytest.mark.control("T-16", without="cluster/api/limits.py::Limits")
async def test_flood_of_requests_is_work_without_limits() -> None:
    """The same ten requests, and a body of any size, with and without the middleware."""
    edge = Edge(rate=Rate(per_s=1, burst=3))
    assert [await edge.ask(length=b"99") for _ in range(10)].count(413) == 3
    assert edge.seen == []
    bare, sent = Edge(), []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"x" * 99}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["status"])

    for _ in range(10):
        await bare.application({"client": ("10.0.0.1", 1)}, receive, send)
    assert sent == [200] * 10


# --- queries -------------------------------------------------------------------------------------

ROUTES = {"takes": "/takes", "takes no query": "/none", "is FastAPI's": "/whole", "is not": "/not"}


def queried() -> FastAPI:
    """Return an application with a route of each kind."""
    router = APIRouter()

    @router.get("/takes")
    async def takes(request: Asked, label: Annotated[Sequence[str], Query()] = ()) -> Response:
        return json_response(len(label))

    @router.get("/none")
    async def none(request: Asked) -> Response:
        return json_response({})

    @router.get("/whole")
    async def whole(label: Annotated[list[str], Query()]) -> int:
        return len(label)

    @router.websocket("/socket")
    async def socket(opened: WebSocket, label: Annotated[list[str], Query()]) -> None:
        await opened.accept()
        await opened.send_text(str(len(label)))
        await opened.close()

    return application("test", router)


async def steps_of(app: FastAPI, path: str, parameters: int) -> tuple[Answer, int]:
    """Return the answer and how many functions were called for it."""
    return await counted(ask(app, "GET", f"{path}?{query(parameters)}"))


async def steps_of_upgrade(app: FastAPI, parameters: int) -> tuple[list[dict[str, Any]], int]:
    """Return what is sent to whoever opens the WebSocket, and how many functions were called."""
    sent: list[dict[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    async def opened() -> list[dict[str, Any]]:
        await app(
            {
                "type": "websocket", "path": "/socket", "raw_path": b"/socket", "headers": [],
                "query_string": query(parameters).encode(), "scheme": "wss", "root_path": "",
                "subprotocols": [], "client": ("10.0.0.1", 1), "server": ("m1", 7443),
            },
            receive,
            send,
        )  # fmt: skip
        return sent

    return await counted(opened())


async def counted(call: Awaitable[T]) -> tuple[T, int]:
    """Return what a call comes to, and how many functions were called for it."""
    steps = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal steps
        steps += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        answer = await call
    finally:
        sys.setprofile(before)
    return answer, steps


def query(parameters: int) -> str:
    """Return a query of so many parameters."""
    return "&".join(["label="] * parameters)


@pytest.mark.parametrize("path", ROUTES.values(), ids=ROUTES)
async def test_a_query_without_end_is_refused_unread(path: str) -> None:
    """A head has room for 10,000 parameters; to read them takes longer than to refuse them."""
    app = queried()
    await steps_of(app, path, QUERY_PARAMETERS)  # what is made once
    most, reading = await steps_of(app, path, QUERY_PARAMETERS)
    refused = [await steps_of(app, path, parameters) for parameters in (257, 1_000, 10_000)]
    assert most.status == (404 if path == "/not" else 200)
    for answer, _ in refused:
        assert (answer.status, answer.body["code"]) == (400, "invalid_request")
        assert answer.body["message"] == "the query holds more than 256 parameters; ask with fewer"
    assert len({steps for _, steps in refused}) == 1, "it was looked into"
    assert refused[0][1] < reading


async def test_an_upgrade_with_a_query_without_end_is_refused_unread() -> None:
    """The same for a WebSocket; the control: up to the limit it opens and reads all of them."""
    app = queried()
    await steps_of_upgrade(app, QUERY_PARAMETERS)  # what is made once
    opened, reading = await steps_of_upgrade(app, QUERY_PARAMETERS)
    refused = [await steps_of_upgrade(app, parameters) for parameters in (257, 1_000, 10_000)]
    assert [one["type"] for one in opened] == [
        "websocket.accept", "websocket.send", "websocket.close",
    ]  # fmt: skip
    assert opened[1]["text"] == str(QUERY_PARAMETERS)
    for sent, _ in refused:
        assert sent == [{"type": "websocket.close"}]
    assert len({steps for _, steps in refused}) == 1, "it was looked into"
    assert refused[0][1] < reading


@pytest.mark.parametrize("path", ["/takes", "/whole"])
async def test_every_parameter_up_to_the_limit_is_read(path: str) -> None:
    for parameters in (1, 255, QUERY_PARAMETERS):
        answer, _ = await steps_of(queried(), path, parameters)
        assert answer.content == str(parameters).encode()
