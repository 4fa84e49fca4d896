"""`/v1/nodes`, `/v1/tokens`, `/v1/operators`, `/v1/managers`, `/v1/status`, `/v1/keys`: running the
cluster."""

from datetime import timedelta
from typing import Annotated, Protocol

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from cluster.api.edge import Edge, decoded
from cluster.control.keys import Keys
from cluster.control.nodes import Nodes
from cluster.control.operators import Operators
from cluster.control.pages import Paging
from cluster.control.policy import Principal
from cluster.control.requests import JSON
from cluster.control.tokens import Tokens
from cluster.store.records import Availability, OperatorRole, TokenRole


class NodeChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change of a node."""

    add_labels: dict[str, str] = {}
    remove_labels: tuple[str, ...] = ()
    availability: Availability | None = None


class TokenDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A join token to create."""

    role: TokenRole
    ttl_s: Annotated[float, msgspec.Meta(gt=0, le=31 * 86_400)] = 3600.0
    uses: int = 1
    name: str = ""
    networks: tuple[str, ...] = ()


class OperatorDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An operator to add."""

    name: str
    role: OperatorRole
    labels: dict[str, str] = {}


class SigningRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate signing request, DER in base64."""

    csr: bytes


class Status(Protocol):
    """What the manager tells of the cluster."""

    async def read(self, principal: Principal) -> dict[str, JSON]:
        """Return the whole status."""
        ...

    async def managers(self, principal: Principal) -> list[dict[str, JSON]]:
        """Return every manager."""
        ...


def routes(
    edge: Edge, nodes: Nodes, tokens: Tokens, operators: Operators, keys: Keys, status: Status
) -> APIRouter:
    """Return the routes for running the cluster."""
    router = APIRouter(prefix="/v1")

    @router.get("/status", tags=["cluster"])
    async def read_status(request: Request) -> Response:
        """Show managers, leader, engine, agents, and what is unhealthy or weak."""
        principal = await edge.principal(request)
        return edge.answer(await status.read(principal))

    @router.get("/managers", tags=["cluster"])
    async def list_managers(request: Request) -> Response:
        """List managers."""
        return edge.answer({"managers": await status.managers(await edge.principal(request))})

    @router.post("/keys/rotate", tags=["cluster"])
    async def rotate_key(request: Request) -> Response:
        """Start a new key epoch and seal every record under it."""
        return edge.answer(await keys.rotate(await edge.context(request)))

    @router.get("/nodes", tags=["nodes"])
    async def list_nodes(request: Request, limit: int | None = None, after: str = "") -> Response:
        """List nodes; pages as of `GET /v1/secrets`."""
        page = nodes.list(await edge.principal(request), Paging(limit, after))
        return edge.answer(page.answer("nodes"))

    @router.get("/nodes/{name}", tags=["nodes"])
    async def inspect_node(request: Request, name: str) -> Response:
        """Show a node and its tasks."""
        return edge.answer(nodes.inspect(await edge.principal(request), name))

    @router.patch("/nodes/{name}", tags=["nodes"])
    async def update_node(request: Request, name: str) -> Response:
        """Change a node's labels or availability."""
        context = await edge.context(request)
        change = await decoded(request, NodeChange)
        answer = await nodes.update(
            context,
            name,
            add_labels=change.add_labels,
            remove_labels=change.remove_labels,
            availability=change.availability,
        )
        return edge.answer(answer.body, answer.status)

    @router.delete("/nodes/{name}", tags=["nodes"])
    async def remove_node(request: Request, name: str) -> Response:
        """Revoke a node: its sessions end at once and its agent wipes what it holds."""
        answer = await nodes.remove(await edge.context(request), name)
        return edge.answer(answer.body, answer.status)

    @router.post("/tokens", status_code=201, tags=["tokens"])
    async def create_token(request: Request) -> Response:
        """Create a join token. The answer is the only time it is shown."""
        context = await edge.context(request)
        draft = await decoded(request, TokenDraft)
        answer = await tokens.create(
            context,
            draft.role,
            timedelta(seconds=draft.ttl_s),
            uses=draft.uses,
            name=draft.name,
            networks=draft.networks,
        )
        return edge.answer(answer.body, answer.status)

    @router.get("/tokens", tags=["tokens"])
    async def list_tokens(request: Request) -> Response:
        """List join tokens, without what they are made of."""
        return edge.answer({"tokens": tokens.list(await edge.principal(request))})

    @router.delete("/tokens/{token_id}", tags=["tokens"])
    async def remove_token(request: Request, token_id: str) -> Response:
        """Remove a join token."""
        answer = await tokens.remove(await edge.context(request), token_id)
        return edge.answer(answer.body, answer.status)

    @router.post("/operators", status_code=201, tags=["operators"])
    async def add_operator(request: Request) -> Response:
        """Add an operator; the answer holds the one-time token to enrol with."""
        context = await edge.context(request)
        draft = await decoded(request, OperatorDraft)
        answer = await operators.add(context, draft.name, draft.role, draft.labels)
        return edge.answer(answer.body, answer.status)

    @router.get("/operators", tags=["operators"])
    async def list_operators(request: Request) -> Response:
        """List operators."""
        return edge.answer({"operators": operators.list(await edge.principal(request))})

    @router.delete("/operators/{name}", tags=["operators"])
    async def remove_operator(request: Request, name: str) -> Response:
        """Remove an operator and revoke his certificates."""
        answer = await operators.remove(await edge.context(request), name)
        return edge.answer(answer.body, answer.status)

    @router.post("/renew", tags=["operators"])
    async def renew_operator(request: Request) -> Response:
        """Renew the calling operator's own certificate."""
        principal = await edge.principal(request)
        signing_request = await decoded(request, SigningRequest)
        return edge.answer(await operators.renew(principal, signing_request.csr))

    return router
