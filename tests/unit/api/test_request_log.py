"""The request log: one event with the route's template, never with what a caller chose."""

import pytest
import structlog

from tests.unit.api.lab import ApiLab

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
