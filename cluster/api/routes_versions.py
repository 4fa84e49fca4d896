"""`/v1/secrets/NAME`: versions, rollback, prune, and the terms they live by. No value goes either
way."""

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from cluster.api.edge import Edge, decoded
from cluster.control.secret_versions import SecretVersions
from cluster.control.version_terms import VersionTerms


class Rollback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which version becomes primary again; without one: the one that was before."""

    version: int | None = None


class Prune(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many retired versions keep their value; without a number: as many as the secret says."""

    keep: int | None = None


def routes(edge: Edge, versions: SecretVersions) -> APIRouter:
    """Return the routes on versions."""
    router = APIRouter(prefix="/v1/secrets", tags=["secrets"])

    @router.get("/{name}/versions")
    async def list_versions(request: Request, name: str) -> Response:
        """Show a secret's versions: state, terms, who pins them, which nodes have them."""
        return edge.answer(versions.list(await edge.principal(request), name))

    @router.post("/{name}/rollback")
    async def roll_back_secret(request: Request, name: str) -> Response:
        """Make an earlier version primary again, under its own number, and start the rollout."""
        context = await edge.context(request)
        asked = await decoded(request, Rollback)
        answer = await versions.rollback(context, name, asked.version)
        return edge.answer(answer.body, answer.status)

    @router.post("/{name}/prune")
    async def prune_secret(request: Request, name: str) -> Response:
        """Destroy the values of retired versions that are not kept."""
        context = await edge.context(request)
        asked = await decoded(request, Prune)
        answer = await versions.prune(context, name, asked.keep)
        return edge.answer(answer.body, answer.status)

    @router.patch("/{name}")
    async def update_secret(request: Request, name: str) -> Response:
        """Change how many versions are kept, the overlap of rotations, the primary's expiry."""
        context = await edge.context(request)
        terms = await decoded(request, VersionTerms)
        answer = await versions.update(context, name, terms)
        return edge.answer(answer.body, answer.status)

    return router
