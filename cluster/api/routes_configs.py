"""`/v1/configs`: contents in, and out again for whoever may read them. Nothing of secrets."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from cluster.api.edge import Edge, decoded, labels_of
from cluster.api.routes_secrets import OCTETS, LabelChange, Labels
from cluster.control.configs import Configs, refuse_templating
from cluster.control.pages import Paging
from cluster.protocol.secret_bytes import SecretBytes


def routes(edge: Edge, configs: Configs) -> APIRouter:
    """Return the routes on configs."""
    router = APIRouter(prefix="/v1/configs", tags=["configs"])

    @router.post("", status_code=201, openapi_extra=OCTETS)
    async def create_config(
        request: Request,
        name: Annotated[str, Query()],
        label: Labels = (),
        template_driver: str | None = None,
    ) -> Response:
        """Create a config; the body is its content, the labels are `label=KEY=VALUE`. A
        `template_driver` is refused."""
        context = await edge.context(request)
        refuse_templating(template_driver)
        content = SecretBytes(await request.body())
        answer = await configs.create(context, name, labels_of(label), content)
        return edge.answer(answer.body, answer.status)

    @router.get("")
    async def list_configs(
        request: Request,
        label: Labels = (),
        prefix: str = "",
        limit: int | None = None,
        after: str = "",
    ) -> Response:
        """List configs: metadata only; pages as of `GET /v1/secrets`."""
        principal = await edge.principal(request)
        page = configs.list(principal, Paging(limit, after), labels=label, prefix=prefix)
        return edge.answer(page.answer("configs"))

    @router.get("/{name}")
    async def inspect_config(request: Request, name: str) -> Response:
        """Show a config's metadata and who refers to it."""
        return edge.answer(configs.inspect(await edge.principal(request), name))

    @router.get("/{name}/content")
    async def read_config(request: Request, name: str) -> Response:
        """Show a config with its content: `data`, in base64. The reading is on record."""
        return edge.answer(await configs.read(await edge.principal(request), name))

    @router.patch("/{name}/labels")
    async def label_config(request: Request, name: str) -> Response:
        """Set and remove labels."""
        context = await edge.context(request)
        change = await decoded(request, LabelChange)
        answer = await configs.set_labels(context, name, change.add, change.remove)
        return edge.answer(answer.body, answer.status)

    @router.delete("/{name}")
    async def remove_config(request: Request, name: str) -> Response:
        """Remove a config that nothing refers to."""
        answer = await configs.remove(await edge.context(request), name)
        return edge.answer(answer.body, answer.status)

    return router
