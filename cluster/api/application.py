"""The FastAPI application of a listener: our routers, our answers to errors, the short way.

Routes are taken over as they are rather than included: an included router is matched through layers
that cost more than a short request's own work. What is asked most goes first, because routes are
tried in order; `direct` calls those that can do without FastAPI. Source: docs/explanation/
performance.md. A query of more parameters than any route takes is refused before it is read.
"""

from typing import Final

from fastapi import APIRouter, FastAPI
from starlette.types import Receive, Scope, Send

from cluster.api import error_map
from cluster.api.direct import DirectRoutes
from cluster.protocol.errors import InvalidRequest

QUERY_PARAMETERS: Final = 256
"""Of one request, be it for a WebSocket. A head has room for some 10,000, which a stranger would
have us read."""
_MANY_PARAMETERS: Final = InvalidRequest(
    f"the query holds more than {QUERY_PARAMETERS} parameters; ask with fewer"
)


class Application(FastAPI):
    """FastAPI, but for routes that are called directly."""

    def __init__(self, title: str) -> None:
        super().__init__(title=title, docs_url=None, redoc_url=None)
        error_map.install(self)
        self._direct = DirectRoutes()

    def take(self, router: APIRouter) -> None:
        """Serve a router's routes, after those that were taken before."""
        self.router.routes.extend(router.routes)
        self._direct.add(router.routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run one WebSocket."""
        http = scope["type"] == "http"
        if scope.get("query_string", b"").count(b"&") >= QUERY_PARAMETERS:
            if http:
                await error_map.error_response(_MANY_PARAMETERS)(scope, receive, send)
            else:
                # Before it is accepted: the handshake is answered with 403.
                await send({"type": "websocket.close"})
            return
        found = self._direct.find(scope) if http else None
        if found is None:
            await super().__call__(scope, receive, send)
        else:
            await found.answer(scope, receive, send)


def application(title: str, *routers: APIRouter) -> FastAPI:
    """Return an application with the routes of `routers`, tried in that order."""
    app = Application(title)
    for router in routers:
        app.take(router)
    return app
