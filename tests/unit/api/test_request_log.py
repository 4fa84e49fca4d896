"""The request log: one event with the route's template, never with what a caller chose."""

import pytest
import structlog
from starlette.types import Receive, Scope, Send

from cluster.api.request_log import RequestLog
from cluster.protocol.ids import is_id
from tests.unit.api.lab import ApiLab, ask

CANARY = "canary-8f3a"


async def test_write_is_logged_by_its_route(lab: ApiLab) -> None:
    await lab.ask("POST", "/v1/secrets?name=db", b"value")
    with structlog.testing.capture_logs() as events:
        await lab.ask("POST", "/v1/secrets/db/versions", CANARY.encode())
    (event,) = [one for one in events if one["event"] == "request.answered"]
    assert event["route"] == "/v1/secrets/{name}/versions"
    assert (event["method"], event["status"], event["address"]) == ("POST", 200, "10.0.0.1")
    assert event["caller"] == "spiffe://lab.example/operator/ada"
    assert event["ms"] == 0.0
    assert CANARY not in repr(events)


async def test_read_that_succeeds_is_not_logged(lab: ApiLab) -> None:
    with structlog.testing.capture_logs() as events:
        assert (await lab.ask("GET", "/v1/secrets")).status == 200
    assert events == []


@pytest.mark.parametrize(
    ("target", "status"), [(f"/v1/secrets/{CANARY}", 404), (f"/{CANARY}", 404)]
)
async def test_read_that_fails_is_logged_without_its_path(
    lab: ApiLab, target: str, status: int
) -> None:
    with structlog.testing.capture_logs() as events:
        assert (await lab.ask("GET", target)).status == status
    assert CANARY not in repr(events)
    assert [event["status"] for event in events] == [status]


async def test_stranger_is_logged_by_address_alone(lab: ApiLab) -> None:
    with structlog.testing.capture_logs() as events:
        await lab.ask("GET", "/v1/secrets", as_="", address="10.9.9.9")
    (event,) = [one for one in events if one["event"] == "request.answered"]
    assert (event["caller"], event["address"]) == ("", "10.9.9.9")


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [("POST", "/v1/secrets?name=db", 201), ("GET", "/v1/secrets/none", 404), ("GET", "/none", 404)],
)
async def test_request_id_is_in_the_answer_and_in_the_log(
    lab: ApiLab, method: str, target: str, status: int
) -> None:
    sent = "b" * 26
    with structlog.testing.capture_logs() as events:
        answer = await lab.ask(method, target, b"v", headers={"strongroom-request-id": sent})
    assert answer.status == status
    assert answer.headers["strongroom-request-id"] == sent
    assert [event["request_id"] for event in events] == [sent]


@pytest.mark.parametrize("sent", ["", CANARY, CANARY + "\r\nx: y", "b" * 27])
async def test_what_is_no_request_id_is_neither_answered_nor_logged(lab: ApiLab, sent: str) -> None:
    with structlog.testing.capture_logs() as events:
        answer = await lab.ask("GET", "/none", headers={"strongroom-request-id": sent})
    drawn = answer.headers["strongroom-request-id"]
    assert is_id(drawn)
    assert [event["request_id"] for event in events] == [drawn]
    assert CANARY not in repr((events, answer.headers))


async def test_events_of_one_request_carry_its_id_and_those_behind_it_do_not(lab: ApiLab) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(structlog.contextvars.get_contextvars())
        await send({"type": "http.response.start", "status": 200, "headers": []})

    clock, entropy = lab.control.clock, lab.control.entropy
    log = RequestLog(app, clock, entropy, lab.metrics, "api")
    await ask(log, "GET", "/", headers={"strongroom-request-id": "c" * 26})
    assert seen == [{"request_id": "c" * 26}]
    assert structlog.contextvars.get_contextvars() == {}


async def test_requests_are_counted_by_route_and_not_by_what_a_caller_chose(lab: ApiLab) -> None:
    await lab.ask("GET", "/v1/secrets")
    await lab.ask("GET", f"/{CANARY}")
    await lab.ask(CANARY, "/v1/secrets")
    text = lab.metrics.render().decode()
    counted = [line for line in text.splitlines() if line.startswith("strongroom_requests_total")]
    labels = 'listener="api",method="{}",route="{}",status="{}"'
    assert f"strongroom_requests_total{{{labels.format('GET', '/v1/secrets', 200)}}} 1.0" in counted
    assert f"strongroom_requests_total{{{labels.format('other', '', 404)}}} 1.0" in counted
    assert CANARY not in text
