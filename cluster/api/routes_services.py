"""`/v1/services` and `/v1/rollouts`: what services want, where their tasks are, how far a change
has come."""

import asyncio
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from cluster.api.edge import Edge, decoded
from cluster.control.rollout_status import RolloutStatus
from cluster.control.service_draft import ServiceDraft
from cluster.control.services import Services
from cluster.store.view import ViewChange

WAIT_LIMIT_S = 30.0
"""A long poll ends after this; the caller asks again."""


class ServiceUpdate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A service's new spec; with `expected_spec_number`, only if it is still the one that was
    read."""

    spec: ServiceDraft
    expected_spec_number: int | None = None


def routes(edge: Edge, services: Services, rollouts: RolloutStatus) -> APIRouter:
    """Return the routes on services and rollouts."""
    router = APIRouter(prefix="/v1", tags=["services"])

    @router.post("/services", status_code=201)
    async def create_service(request: Request) -> Response:
        """Create a service; placement follows."""
        context = await edge.context(request)
        answer = await services.create(context, await decoded(request, ServiceDraft))
        return edge.answer(answer.body, answer.status)

    @router.get("/services")
    async def list_services(request: Request) -> Response:
        """List services."""
        return edge.answer({"services": services.list(await edge.principal(request))})

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
        """Show, per task, the versions desired and mounted, and since when."""
        return edge.answer({"tasks": services.tasks(await edge.principal(request), name)})

    @router.get("/rollouts/{rollout_id}", tags=["rollouts"])
    async def inspect_rollout(
        request: Request,
        rollout_id: str,
        wait: Annotated[float, Query(ge=0, le=WAIT_LIMIT_S)] = 0.0,
    ) -> Response:
        """Show how far a rollout has come; with `wait`, answer when it is complete or after so many
        seconds."""
        principal = await edge.principal(request)
        changed = asyncio.Event()

        def on_change(_change: ViewChange) -> None:
            changed.set()

        unsubscribe = edge.store.view.subscribe(on_change)
        try:
            async with asyncio.timeout(wait or None):
                while True:
                    changed.clear()
                    progress = rollouts.inspect(principal, rollout_id)
                    if progress["done"] or not wait:
                        return edge.answer(progress)
                    await changed.wait()
        except TimeoutError:
            return edge.answer(rollouts.inspect(principal, rollout_id))
        finally:
            unsubscribe()

    return router
