"""Managers on their way in (what one calls with its new certificate) and out."""

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from cluster.api.edge import Edge, decoded
from cluster.api.membership import Departing, Membership


class LearnerRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A joining manager's member asks to be added."""

    fresh: bool
    """It has no data, whatever the members remember of it."""


def routes(edge: Edge, membership: Membership, departures: Departing) -> APIRouter:
    """Return the routes for managers that come and go."""
    router = APIRouter(prefix="/v1/managers", tags=["cluster"])

    @router.post("/learner")
    async def add_learner(request: Request) -> Response:
        """Add the calling manager's engine member as a learner."""
        principal = await edge.principal(request)
        asked = await decoded(request, LearnerRequest)
        return edge.answer(await membership.add_learner(principal, fresh=asked.fresh))

    @router.post("/promote")
    async def promote(request: Request) -> Response:
        """Make the calling manager's member a voter, if it has caught up, and the manager
        active."""
        return edge.answer(await membership.promote(await edge.principal(request)))

    @router.delete("/{name}")
    async def remove_manager(request: Request, name: str) -> Response:
        """Remove a manager: its certificate is refused at once, its engine member is taken out
        as soon as the engine allows it; the list of managers tells when."""
        answer = await departures.remove(await edge.context(request), name)
        return edge.answer(answer.body, answer.status)

    return router
