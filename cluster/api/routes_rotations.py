"""Values that the cluster makes: `/v1/secrets/{name}/generated`, `schedule`, `rotation`; hooks."""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from cluster.api.edge import Edge, decoded
from cluster.api.waiting import until_over
from cluster.control.requests import JSON
from cluster.control.scheduled import RotationDraft, Scheduled, ScheduleDraft
from cluster.control.secrets import Secrets
from cluster.control.version_terms import VersionTerms

WAIT_LIMIT_S = 30.0
"""A long poll ends after this; the caller asks again."""


class GeneratedSecret(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a new secret's first value is made; there is no field for a value."""

    generator: str
    length: int = 0
    labels: dict[str, str] = {}
    terms: VersionTerms = VersionTerms()


def routes(edge: Edge, secrets: Secrets, scheduled: Scheduled) -> APIRouter:
    """Return the routes on values that the cluster makes."""
    router = APIRouter(prefix="/v1", tags=["secrets"])

    @router.post("/secrets/{name}/generated", status_code=201)
    async def generate_secret(request: Request, name: str) -> Response:
        """Create a secret whose first value the manager makes: nobody ever sees it."""
        context = await edge.context(request)
        asked = await decoded(request, GeneratedSecret)
        draft = RotationDraft(asked.generator, asked.length)
        value = await scheduled.make(context.principal, name, asked.labels, draft)
        answer = await secrets.create(context, name, asked.labels, value, asked.terms)
        return edge.answer(answer.body, answer.status)

    @router.put("/secrets/{name}/schedule")
    async def schedule_secret(request: Request, name: str) -> Response:
        """Make a secret rotate by itself, or change how."""
        context = await edge.context(request)
        draft = await decoded(request, ScheduleDraft)
        answer = await scheduled.set_schedule(context, name, draft)
        return edge.answer(answer.body, answer.status)

    @router.delete("/secrets/{name}/schedule")
    async def unschedule_secret(request: Request, name: str) -> Response:
        """Let a secret rotate by hand only."""
        answer = await scheduled.remove_schedule(await edge.context(request), name)
        return edge.answer(answer.body, answer.status)

    @router.post("/secrets/{name}/rotation", status_code=202)
    async def start_rotation(request: Request, name: str) -> Response:
        """Start a rotation to a value that the manager makes, by the secret's schedule or as the
        body says."""
        context = await edge.context(request)
        answer = await scheduled.start(context, name, await decoded(request, RotationDraft))
        return edge.answer(answer.body, 202)

    @router.get("/secrets/{name}/rotation")
    async def inspect_rotation(
        request: Request,
        name: str,
        wait: Annotated[float, Query(ge=0, le=WAIT_LIMIT_S)] = 0.0,
    ) -> Response:
        """Show a secret's schedule and how its newest rotation stands; with `wait`, answer when
        its new version is in place, when it failed, or after so many seconds."""
        principal = await edge.principal(request)
        found = await until_over(
            edge.store.view,
            lambda: scheduled.inspect(principal, name),
            _is_settled,
            wait,
        )
        return edge.answer(found)

    @router.delete("/secrets/{name}/rotation")
    async def give_rotation_up(request: Request, name: str) -> Response:
        """Take a rotation that is under way back."""
        answer = await scheduled.give_up(await edge.context(request), name)
        return edge.answer(answer.body, answer.status)

    @router.get("/hooks", tags=["hooks"])
    async def list_hooks(request: Request) -> Response:
        """List the hooks of this manager, with what is wrong with each."""
        return edge.answer({"hooks": scheduled.hooks(await edge.principal(request))})

    return router


def _is_settled(seen: Mapping[str, JSON]) -> bool:
    rotation = seen["rotation"]
    return not isinstance(rotation, Mapping) or bool(rotation["settled"])
