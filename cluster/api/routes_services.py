"""`/v1/services`: what services want, and where their tasks are."""

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from cluster.api.edge import Edge, decoded
from cluster.control.pages import Paging
from cluster.control.service_draft import ServiceDraft
from cluster.control.services import Services


class ServiceUpdate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A service's new spec; with `expected_spec_number`, only if it is still the one that was
    read."""

    spec: ServiceDraft
    expected_spec_number: int | None = None


def routes(edge: Edge, services: Services) -> APIRouter:
    """Return the routes on services."""
    router = APIRouter(prefix="/v1", tags=["services"])

    @router.post("/services", status_code=201)
    async def create_service(request: Request) -> Response:
        """Create a service; placement follows."""
        context = await edge.context(request)
        answer = await services.create(context, await decoded(request, ServiceDraft))
        return edge.answer(answer.body, answer.status)

    @router.get("/services")
    async def list_services(
        request: Request, limit: int | None = None, after: str = ""
    ) -> Response:
        """List services; pages as of `GET /v1/secrets`."""
        page = services.list(await edge.principal(request), Paging(limit, after))
        return edge.answer(page.answer("services"))

    @router.get("/services/{name}")
    async def inspect_service(request: Request, name: str) -> Response:
        """Show a service's spec and its previous one."""
        return edge.answer(services.inspect(await edge.principal(request), name))

    @router.put("/services/{name}")
    async def update_service(request: Request, name: str) -> Response:
        """Replace a service's spec; the one before is kept."""
        context = await edge.context(request)
        update = await decoded(request, ServiceUpdate)
        answer = await services.update(context, name, update.spec, update.expected_spec_number)
        return edge.answer(answer.body, answer.status)

    @router.post("/services/{name}/rollback")
    async def roll_service_back(request: Request, name: str) -> Response:
        """Swap a service's spec with the one before."""
        answer = await services.rollback(await edge.context(request), name)
        return edge.answer(answer.body, answer.status)

    @router.delete("/services/{name}")
    async def remove_service(request: Request, name: str) -> Response:
        """Remove a service and its tasks."""
        answer = await services.remove(await edge.context(request), name)
        return edge.answer(answer.body, answer.status)

    @router.get("/services/{name}/tasks")
    async def list_tasks(request: Request, name: str) -> Response:
        """Show, per task, the versions desired and mounted, and since when; and the tasks that
        ended last, with the reason."""
        principal = await edge.principal(request)
        ended = services.ended_tasks(principal, name)
        return edge.answer({"tasks": services.tasks(principal, name), "ended": ended})

    return router
