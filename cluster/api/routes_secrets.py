"""`/v1/secrets`: metadata out, values in. No route here can answer with a value."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from cluster.api.edge import Edge, decoded, labels_of
from cluster.control.configs import refuse_templating
from cluster.control.pages import Paging
from cluster.control.rollout_policy import PolicyChange
from cluster.control.secrets import Secrets
from cluster.control.version_terms import VersionTerms
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import FailureAction

OCTETS = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
"""A value travels as the raw body: binary safe, and never a str that Python would keep around."""


Labels = Annotated[Sequence[str], Query()]


class LabelChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Labels to set and label keys to remove."""

    add: dict[str, str] = {}
    remove: tuple[str, ...] = ()


def routes(edge: Edge, secrets: Secrets) -> APIRouter:
    """Return the routes on secrets."""
    router = APIRouter(prefix="/v1/secrets", tags=["secrets"])

    @router.post("", status_code=201, openapi_extra=OCTETS)
    async def create_secret(
        request: Request,
        name: Annotated[str, Query()],
        label: Labels = (),
        keep: int | None = None,
        overlap_s: float | None = None,
        expires_in_s: float | None = None,
        expires_at: str | None = None,
        template_driver: str | None = None,
    ) -> Response:
        """Create a secret; the body is its first version's value, the labels are
        `label=KEY=VALUE`. A `template_driver` is refused."""
        context = await edge.context(request)
        refuse_templating(template_driver)
        value = SecretBytes(await request.body())
        terms = VersionTerms(keep, overlap_s, expires_in_s, expires_at)
        answer = await secrets.create(context, name, labels_of(label), value, terms)
        return edge.answer(answer.body, answer.status)

    @router.get("")
    async def list_secrets(
        request: Request,
        label: Labels = (),
        prefix: str = "",
        limit: int | None = None,
        after: str = "",
    ) -> Response:
        """List secrets by name: metadata only. With `limit` a page of it, from the name that
        follows `after` on; `next` is the `after` of the next page, or null."""
        principal = await edge.principal(request)
        page = secrets.list(principal, Paging(limit, after), labels=label, prefix=prefix)
        return edge.answer(page.answer("secrets"))

    @router.get("/{name}")
    async def inspect_secret(request: Request, name: str) -> Response:
        """Show a secret's metadata, its versions and who refers to it."""
        return edge.answer(secrets.inspect(await edge.principal(request), name))

    @router.post("/{name}/versions", openapi_extra=OCTETS)
    async def rotate_secret(
        request: Request,
        name: str,
        *,
        overlap_s: float | None = None,
        expires_in_s: float | None = None,
        expires_at: str | None = None,
        canary: int | None = None,
        parallelism: int | None = None,
        delay_s: float | None = None,
        monitor_s: float | None = None,
        patience_s: float | None = None,
        on_failure: FailureAction | None = None,
    ) -> Response:
        """Add a version, make it primary, and start the rollout that brings it to every node; how
        it goes out may be said for this once."""
        context = await edge.context(request)
        value = SecretBytes(await request.body())
        terms = VersionTerms(None, overlap_s, expires_in_s, expires_at)
        change = PolicyChange(parallelism, delay_s, canary, monitor_s, patience_s, on_failure)
        answer = await secrets.rotate(context, name, value, terms, change)
        return edge.answer(answer.body, answer.status)

    @router.patch("/{name}/labels")
    async def label_secret(request: Request, name: str) -> Response:
        """Set and remove labels."""
        context = await edge.context(request)
        change = await decoded(request, LabelChange)
        answer = await secrets.set_labels(context, name, change.add, change.remove)
        return edge.answer(answer.body, answer.status)

    @router.delete("/{name}")
    async def remove_secret(request: Request, name: str) -> Response:
        """Remove a secret that nothing refers to."""
        answer = await secrets.remove(await edge.context(request), name)
        return edge.answer(answer.body, answer.status)

    return router
