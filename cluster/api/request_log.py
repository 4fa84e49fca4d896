"""One log event per request: route template, status, caller, milliseconds, request id; and the
counting of requests.

The template, not the path: a path is chosen by the caller. Reads that succeed are not logged; they
would drown what matters.
"""

from dataclasses import dataclass
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.api.peer import caller_of
from cluster.metrics import Metrics
from cluster.system import Clock

log = structlog.get_logger(__name__)

HTTP_ERROR: Final = 400


@dataclass(slots=True)
class RequestLog:
    """ASGI middleware."""

    app: ASGIApp
    clock: Clock
    metrics: Metrics
    listener: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and log how it was answered."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started_s = self.clock.monotonic_s()
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            took_s = self.clock.monotonic_s() - started_s
            self.metrics.request(self.listener, scope["method"], _route(scope), status, took_s)
            if scope["method"] != "GET" or status >= HTTP_ERROR:
                self._log(scope, status, took_s)

    def _log(self, scope: Scope, status: int, took_s: float) -> None:
        caller = caller_of(scope)
        client = scope.get("client")
        log.info(
            "request.answered",
            method=scope["method"],
            route=_route(scope),
            status=status,
            caller=str(caller.identity) if caller else "",
            address=client[0] if client else "",
            ms=round(took_s * 1000, 1),
        )


def _route(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", ""))
