"""The short way: it chooses and answers as FastAPI does, and leaves it whatever is not plain."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import pytest
import structlog
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match

from cluster.api import (
    routes_agent,
    routes_configs,
    routes_join,
    routes_secrets,
    routes_services,
    routes_versions,
)
from cluster.api.application import application
from cluster.api.direct import DirectRoutes
from cluster.api.error_map import json_response
from cluster.store.records import FailureAction
from tests.unit.api.lab import ApiLab, ask

CANARY = "canary-51d0"
ROUTERS: tuple[Any, ...] = (
    routes_agent, routes_secrets, routes_versions, routes_configs, routes_services, routes_join,
)  # fmt: skip


def routers() -> list[APIRouter]:
    """Return routers whose functions are not called: they need no parts."""
    return [
        module.routes(*[None] * module.routes.__code__.co_argcount)
        for module in ROUTERS
    ]  # fmt: skip


def scope_of(method: str, path: str, query: bytes = b"") -> dict[str, Any]:
    return {
        "type": "http", "method": method, "path": path, "root_path": "", "query_string": query,
    }  # fmt: skip


@pytest.mark.parametrize(
    "path",
    [
        "/v1/issue", "/v1/issue/", "/v1/issue\n", "/v1/secrets", "/v1/secrets/", "/v1/secrets/db",
        "/v1/secrets/versions", "/v1/secrets/db/versions", "/v1/secrets//versions",
        "/v1/secrets/a/b/versions", "/v1/configs/x/content", "/v1/services/x/tasks", "/v1/none",
        "/v1/join", "/healthz", "/",
    ],
)  # fmt: skip
def test_it_finds_the_route_that_would_serve(path: str) -> None:
    direct = DirectRoutes()
    routes = [route for router in routers() for route in router.routes]
    direct.add(routes)
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        scope = scope_of(method, path, b"name=x")
        matching = (route for route in routes if route.matches(scope)[0] is Match.FULL)
        serves = next(matching, None)
        found = direct.find(scope)
        assert found is None or found.route is serves
        if found is None and isinstance(serves, APIRoute):
            assert serves.path == "/healthz", "the one of these that takes no request"


def test_what_is_asked_most_is_called_directly() -> None:
    direct = DirectRoutes()
    direct.add(route for router in routers() for route in router.routes)
    assert direct.find(scope_of("POST", "/v1/issue")) is not None
    assert direct.find(scope_of("POST", "/v1/secrets", b"name=db")) is not None
    rotation = direct.find(scope_of("POST", "/v1/secrets/db/versions", b"on_failure=pause"))
    assert rotation is not None
    assert rotation.arguments == {"name": "db", "on_failure": FailureAction.PAUSE}


# --- what a function may take ---------------------------------------------------------------------


def telling(calls: list[dict[str, Any]]) -> FastAPI:
    """Return an application that notes what its functions are called with."""
    router = APIRouter()

    @router.get("/plain/{name}")
    async def plain(
        request: Request,
        name: str,
        text: str = "none",
        label: Annotated[Sequence[str], Query()] = (),
        keep: int | None = None,
        wait_s: float = 0.5,
        action: FailureAction | None = None,
    ) -> Response:
        direct = "app" not in request.scope  # Starlette puts it there
        calls.append(
            {
                "direct": direct, "name": name, "text": text, "label": list(label), "keep": keep,
                "wait_s": wait_s, "action": action,
            }
        )  # fmt: skip
        return json_response({})

    return application("test", router)


@pytest.mark.parametrize(
    ("query", "direct", "expected"),
    [
        ("", True, {"text": "none", "label": [], "keep": None, "wait_s": 0.5}),
        ("text=a%20b+c&other=1", True, {"text": "a b c"}),
        ("text=&text=last", True, {"text": "last"}),
        ("text=", True, {"text": ""}),
        ("text=%C3%A9%FF", True, {"text": "\u00e9\ufffd"}),
        ("label=b&label=a", True, {"label": ["b", "a"]}),
        ("keep=-3&wait_s=2", True, {"keep": -3, "wait_s": 2.0}),
        ("wait_s=1.25&action=rollback", True, {"wait_s": 1.25, "action": FailureAction.ROLLBACK}),
        ("wait_s=1e3", False, {"wait_s": 1000.0}),
        ("keep=%2B3", False, {"keep": 3}),
    ],
)
async def test_parameters_come_as_fastapi_gives_them(
    query: str, direct: bool, expected: dict[str, object]
) -> None:
    calls: list[dict[str, Any]] = []
    app = telling(calls)
    assert (await ask(app, "GET", f"/plain/db?{query}")).status == 200
    # The same again, by FastAPI alone.
    assert (await ask(super_of(app), "GET", f"/plain/db?{query}")).status == 200
    first, again = calls
    assert (first.pop("direct"), again.pop("direct")) == (direct, False)
    assert first == again
    assert {name: first[name] for name in expected} == expected


@pytest.mark.parametrize(
    "query", ["keep=x", "keep=", "keep=1.5", "wait_s=x", "wait_s=", "action=PAUSE", "keep=1&keep=y"]
)
async def test_what_is_not_plainly_valid_is_refused_by_fastapi(query: str) -> None:
    calls: list[dict[str, Any]] = []
    answer = await ask(telling(calls), "GET", f"/plain/db?{query}")
    assert (answer.status, answer.body["code"]) == (400, "invalid_request")
    assert answer.body["message"] == "the request is not valid in its query"
    assert calls == []


async def test_a_required_parameter_is_required(lab: ApiLab) -> None:
    answer = await lab.ask("POST", "/v1/secrets?nam=db", b"value")
    assert (answer.status, answer.body["message"]) == (400, "the request is not valid in its query")


def test_functions_that_take_more_are_left_to_fastapi() -> None:
    router, nothing = APIRouter(), Response()

    @router.get("/depends")
    async def depends(request: Request, known: Annotated[str, Depends(routers)]) -> Response:
        return nothing

    @router.get("/limited")
    async def limited(request: Request, keep: Annotated[int, Query(ge=1)] = 1) -> Response:
        return nothing

    @router.get("/renamed")
    async def renamed(request: Request, keep: Annotated[int, Query(alias="k")] = 1) -> Response:
        return nothing

    @router.get("/flag")
    async def flag(request: Request, yes: bool = False) -> Response:
        return nothing

    @router.get("/body")
    async def body(request: Request, content: dict[str, str]) -> Response:
        return nothing

    @router.get("/data")
    async def data(request: Request) -> dict[str, str]:
        return {}

    @router.get("/blocking")
    def blocking(request: Request) -> Response:
        return nothing

    @router.get("/numbered/{number}")
    async def numbered(request: Request, number: int) -> Response:
        return nothing

    @router.get("/direct")
    async def direct(request: Request) -> Response:
        return nothing

    routes = DirectRoutes()
    routes.add(router.routes)
    paths = [route.path for route in router.routes if isinstance(route, APIRoute)]
    found = [path for path in paths if routes.find(scope_of("GET", path.format(number=1)))]
    assert found == ["/direct"]


# --- how errors are answered ----------------------------------------------------------------------


def failing(error: Exception) -> FastAPI:
    router = APIRouter()

    @router.get("/{anything}")
    async def fail(request: Request, anything: str) -> Response:
        raise error

    return application("test", router)


async def test_unforeseen_failure_is_answered_and_raised() -> None:
    app = failing(ValueError(CANARY))
    for served in (app, super_of(app)):
        with structlog.testing.capture_logs() as events, pytest.raises(ValueError, match=CANARY):
            await ask(served, "GET", f"/{CANARY}")
        assert CANARY not in repr(events)
        (event,) = events
        assert (event["event"], event["error"]) == ("request.failed", "ValueError")
        assert (event["file"], event["path"]) == ("test_direct.py", "/{anything}")


async def test_who_hangs_up_is_no_error() -> None:
    with structlog.testing.capture_logs() as events:
        assert (await ask(failing(ClientDisconnect()), "GET", "/x")).status == 400
    assert events == []


async def test_a_cancelled_request_is_not_answered() -> None:
    started = asyncio.Event()
    router = APIRouter()

    @router.get("/waits")
    async def waits(request: Request) -> Response:
        started.set()
        await asyncio.Event().wait()
        return json_response({})

    asking = asyncio.create_task(ask(application("test", router), "GET", "/waits"))
    async with asyncio.timeout(20):
        await started.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


def super_of(app: FastAPI) -> Any:  # noqa: ANN401  # ASGI's types and FastAPI's differ in name only
    """Return an application without the short way."""

    async def served(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401  # as above
        await FastAPI.__call__(app, scope, receive, send)

    return served
