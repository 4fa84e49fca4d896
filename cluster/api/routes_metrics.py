"""`/metrics`: for operators who may read them, and on this machine's loopback where it is
configured."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request
from starlette.responses import Response

from cluster.api.edge import Edge
from cluster.api.error_map import json_response
from cluster.api.routes_join import Health
from cluster.control.policy import Action, Resource
from cluster.control.requests import Requests
from cluster.metrics import CONTENT_TYPE

Read = Callable[[], Awaitable[bytes]]


def routes(edge: Edge, requests: Requests, read: Read) -> APIRouter:
    """Return the route for callers with a certificate."""
    router = APIRouter()

    @router.get("/metrics", tags=["metrics"])
    async def read_metrics(request: Request) -> Response:
        """Show this manager's metrics in Prometheus' text format."""
        principal = await edge.principal(request)
        requests.check(principal, Action.METRICS_READ, Resource("metrics"))
        return _text(await read())

    return router


def local_routes(read: Read, health: Health) -> APIRouter:
    """Return the routes of the loopback listener, which answers anybody on this machine."""
    router = APIRouter()

    @router.get("/metrics", tags=["metrics"])
    async def read_metrics() -> Response:
        """Show this manager's metrics, locked or not."""
        return _text(await read())

    @router.get("/healthz", tags=["health"])
    async def live() -> Response:
        """Answer that the process lives."""
        return json_response({"live": True})

    @router.get("/readyz", tags=["health"])
    async def ready() -> Response:
        """Answer whether this manager can serve."""
        is_ready, reason = health()
        return json_response({"ready": is_ready, "reason": reason}, 200 if is_ready else 503)

    return router


def _text(content: bytes) -> Response:
    return Response(content, media_type=CONTENT_TYPE, headers={"cache-control": "no-store"})
