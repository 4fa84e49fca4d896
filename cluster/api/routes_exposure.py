"""Where secrets are, what a node may have had, and its eviction with all of that."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from cluster.api.edge import Edge, decoded
from cluster.control.evict_rotate import Evictions
from cluster.control.exposure import Exposure


class Eviction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to evict a node."""

    rotate: bool = False
    """Whether to rotate, or mark, every live version that it held."""


def routes(edge: Edge, exposure: Exposure, evictions: Evictions) -> APIRouter:
    """Return the routes on exposure."""
    router = APIRouter(prefix="/v1")

    @router.get("/secrets/{name}/where", tags=["secrets"])
    async def where_secret_is(
        request: Request, name: str, version: Annotated[int | None, Query(ge=1)] = None
    ) -> Response:
        """Show which nodes may have had which version of a secret, for which service, and since
        when; also of a removed secret."""
        principal = await edge.principal(request)
        return edge.answer(exposure.where(principal, name, version))

    @router.get("/nodes/{name}/exposure", tags=["nodes"])
    async def exposure_of_node(request: Request, name: str) -> Response:
        """Show everything that a node may ever have received, and what of it is still in use; also
        of an evicted node."""
        return edge.answer(exposure.of_node(await edge.principal(request), name))

    @router.post("/nodes/{name}/evict", tags=["nodes"])
    async def evict_node(request: Request, name: str) -> Response:
        """Revoke a node and, if asked, rotate what it held: what cannot rotate by itself is marked.
        On a node that was evicted before it goes on where that stopped."""
        context = await edge.context(request)
        eviction = await decoded(request, Eviction)
        answer = await evictions.evict(context, name, rotate=eviction.rotate)
        return edge.answer(answer.body, answer.status)

    return router
