"""The FastAPI application of a listener: our routers, our answers to errors.

Routes are taken over as they are rather than included: an included router is matched through layers
that cost more than a short request's own work. What is asked most goes first, because routes are
tried in order. Source: docs/explanation/performance.md.
"""

from fastapi import APIRouter, FastAPI

from cluster.api import error_map


def application(title: str, *routers: APIRouter) -> FastAPI:
    """Return an application with the routes of `routers`, tried in that order."""
    app = FastAPI(title=title, docs_url=None, redoc_url=None)
    error_map.install(app)
    for router in routers:
        app.router.routes.extend(router.routes)
    return app
