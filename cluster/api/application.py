"""The FastAPI application of a listener: our routers, our answers to errors, the short way.

Routes are taken over as they are rather than included: an included router is matched through layers
that cost more than a short request's own work. What is asked most goes first, because routes are
tried in order; `direct` calls those that can do without FastAPI. Source: docs/explanation/
performance.md.
"""

from fastapi import APIRouter, FastAPI
from starlette.types import Receive, Scope, Send

from cluster.api import error_map
from cluster.api.direct import DirectRoutes


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
        found = self._direct.find(scope) if scope["type"] == "http" else None
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
