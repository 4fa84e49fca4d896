"""One log event per request: route template, status, caller, milliseconds; and what every answer
and every event on the way to it carry: the request id.

A request without a usable id gets one here. The id is drawn by whoever asks, or by us: nothing else
of what a caller sends reaches an answer's head.

The template, not the path: a path is chosen by the caller. Reads that succeed are not logged; they
would drown what matters.
"""

from dataclasses import dataclass
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.api.peer import caller_of
from cluster.metrics import Metrics
from cluster.protocol.ids import ID_SIZE, format_id, is_id
from cluster.system import Clock, Entropy

log = structlog.get_logger(__name__)

HTTP_ERROR: Final = 400
REQUEST_ID_HEADER: Final = "strongroom-request-id"
REQUEST_ID: Final = "strongroom.request_id"
"""Where a request keeps its id."""
_HEADER: Final = REQUEST_ID_HEADER.encode()


@dataclass(slots=True)
class RequestLog:
    """ASGI middleware."""

    app: ASGIApp
    clock: Clock
    entropy: Entropy
    metrics: Metrics
    listener: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and log how it was answered."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started_s = self.clock.monotonic_s()
        status = 500
        request_id = sent_request_id(scope) or format_id(self.entropy.token(ID_SIZE))
        scope[REQUEST_ID] = request_id

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (_HEADER, request_id.encode()),
                ]
            await send(message)

        bound = structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await self.app(scope, receive, noting)
        finally:
            structlog.contextvars.reset_contextvars(**bound)
            took_s = self.clock.monotonic_s() - started_s
            self.metrics.request(self.listener, scope["method"], _route(scope), status, took_s)
            if scope["method"] != "GET" or status >= HTTP_ERROR:
                self._log(scope, status, took_s, request_id)

    def _log(self, scope: Scope, status: int, took_s: float, request_id: str) -> None:
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
            request_id=request_id,
        )


def sent_request_id(scope: Scope) -> str:
    """Return the request id that a caller drew, or "" where there is none that is one."""
    for name, value in scope["headers"]:
        if name == _HEADER:
            text = value.decode("latin-1")
            return text if is_id(text) else ""
    return ""


def _route(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", ""))
