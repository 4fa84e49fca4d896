"""Errors as answers: every one is of the tree, and none repeats what was sent."""

import json

import pytest
import structlog
from fastapi import FastAPI
from starlette.types import ASGIApp

from cluster.api import error_map
from cluster.protocol import errors
from tests.unit.api.lab import Answer, ApiLab, ask

CANARY = "canary-8f3a"


def failing(error: Exception) -> ASGIApp:
    app = FastAPI()
    error_map.install(app)

    @app.get("/{anything}")
    async def fail(anything: str, number: int = 0) -> None:
        raise error

    return app


def error_of(answer: Answer) -> tuple[int, str, bool]:
    assert set(answer.body) == {"code", "message", "retryable"}
    assert answer.headers["cache-control"] == "no-store"
    return answer.status, answer.body["code"], answer.body["retryable"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.InvalidName(), (400, "invalid_name", False)),
        (errors.Unauthenticated(), (401, "unauthenticated", False)),
        (errors.Evicted(), (403, "evicted", False)),
        (errors.SecretNotFound(), (404, "secret_not_found", False)),
        (errors.StaleVersion(), (409, "stale_version", False)),
        (errors.TooManyRequests(), (429, "too_many_requests", True)),
        (errors.NoQuorum(), (503, "no_quorum", True)),
        (errors.OpenFailed(), (500, "open_failed", False)),
    ],
)
async def test_error_is_told_by_its_class(
    error: errors.ClusterError, expected: tuple[int, str, bool]
) -> None:
    answer = await ask(failing(error), "GET", "/x")
    assert error_of(answer) == expected
    assert answer.body["message"] == error.message


async def test_unforeseen_failure_shows_neither_text_nor_trace() -> None:
    app = failing(ValueError(CANARY))
    with structlog.testing.capture_logs() as events, pytest.raises(ValueError, match=CANARY):
        # Starlette raises it once more, for the server; by then the answer has been sent.
        await ask(app, "GET", f"/{CANARY}")
    assert CANARY not in repr(events)
    (event,) = events
    assert event["event"] == "request.failed"
    assert (event["error"], event["file"]) == ("ValueError", "test_error_map.py")
    assert event["path"] == "/{anything}"


async def test_unknown_path_and_method_are_told_apart(lab: ApiLab) -> None:
    assert error_of(await lab.ask("GET", f"/v1/{CANARY}"))[:2] == (404, "not_found")
    assert error_of(await lab.ask("PUT", "/v1/secrets"))[:2] == (405, "method_not_allowed")


@pytest.mark.threat("T-17")
@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", f"/v1/secrets?nam={CANARY}", CANARY.encode()),
        ("POST", f"/v1/secrets?name={CANARY}%20/", CANARY.encode()),
        ("PATCH", "/v1/secrets/db/labels", {CANARY: CANARY}),
        ("PATCH", "/v1/secrets/db/labels", {"add": {CANARY: 1}}),
        ("PATCH", "/v1/secrets/db/labels", {"add": [CANARY]}),
        ("POST", "/v1/services", {"name": "red", CANARY: 1}),
        ("POST", "/v1/services", {"name": CANARY.upper(), "uid": CANARY}),
        ("POST", "/v1/services", f'{{"name": "{CANARY}'.encode()),
        ("POST", "/v1/services", CANARY.encode() + b"\xff\xfe"),
        ("POST", "/v1/services", b"[" * 3_000 + CANARY.encode()),
        ("POST", "/v1/tokens", {"role": CANARY}),
        ("POST", "/v1/tokens", {"role": "worker", "ttl_s": CANARY}),
        ("POST", "/v1/operators", {"name": "x", "role": CANARY}),
        ("POST", "/v1/renew", {"csr": CANARY}),
        ("GET", f"/v1/rollouts/x?wait={CANARY}", b""),
    ],
)
async def test_no_error_repeats_what_was_sent(
    lab: ApiLab, method: str, target: str, body: object
) -> None:
    with structlog.testing.capture_logs() as events:
        answer = await lab.ask(method, target, body)
    status, _, _ = error_of(answer)
    assert 400 <= status < 500
    assert CANARY not in (answer.content + repr(answer.headers).encode()).decode().lower()
    assert CANARY not in repr(events).lower()


@pytest.mark.threat("T-17")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/join", {"token": CANARY, "csr": "", "name": "x"}),
        ("/v1/join", {"token": CANARY, "csr": "!", "nam": CANARY}),
        ("/v1/return", {"csr": CANARY}),
        ("/v1/enrol", {"token": f"SRTKN-1-{CANARY}", "csr": ""}),
        ("/v1/join-manager", {"token": CANARY, "unlock_verifier": CANARY}),
    ],
)
async def test_stranger_learns_nothing_from_an_error(
    lab: ApiLab, path: str, body: dict[str, str]
) -> None:
    with structlog.testing.capture_logs() as events:
        answer = await lab.stranger("POST", path, body)
    assert 400 <= error_of(answer)[0] < 500
    assert CANARY not in answer.content.decode().lower()
    assert CANARY not in json.dumps(events).lower()
