"""The listener without client certificates (7444): joining, coming back, the trust bundle, health.

Everything here is reached by strangers: bodies are small, rates are limited before any work, and
what admits is a token or an old key.
"""

from collections.abc import Callable

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from cluster.api.edge import decoded
from cluster.api.error_map import json_response
from cluster.api.membership import ManagerJoinRequest, Membership
from cluster.control.enrolment import Enrolment
from cluster.control.operators import Operators
from cluster.pki.join_token import JoinToken
from cluster.pki.trust_bundle import TrustBundle

Health = Callable[[], tuple[bool, str]]
"""Whether the manager is ready, and if not, why."""


class JoinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node asks to join."""

    token: str
    csr: bytes
    name: str


class ReturnRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node whose certificate expired asks to come back, by proof of its old key."""

    csr: bytes
    certificate: bytes
    signature: bytes


class EnrolRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An operator asks for his first certificate."""

    token: str
    csr: bytes


def routes(
    enrolment: Enrolment,
    operators: Operators,
    membership: Membership,
    bundle: Callable[[], TrustBundle],
    health: Health,
) -> APIRouter:
    """Return the routes for those who have no certificate."""
    router = APIRouter()

    @router.get("/v1/ca", tags=["join"])
    async def trust_bundle() -> Response:
        """Return the trust bundle; a joiner proves it by the digest in its token."""
        return json_response(bundle().to_dict())

    @router.post("/v1/join", tags=["join"])
    async def join(request: Request) -> Response:
        """Admit a node by its token."""
        asked = await decoded(request, JoinRequest)
        token = JoinToken.parse(asked.token)
        return json_response(
            await enrolment.join_node(token, asked.csr, asked.name, _address(request))
        )

    @router.post("/v1/return", tags=["join"])
    async def come_back(request: Request) -> Response:
        """Give a node whose certificate expired a new one."""
        asked = await decoded(request, ReturnRequest)
        reply = await enrolment.return_node(
            asked.certificate, asked.csr, asked.signature, _address(request)
        )
        return json_response(reply)

    @router.post("/v1/enrol", tags=["join"])
    async def enrol(request: Request) -> Response:
        """Give an operator his first certificate."""
        asked = await decoded(request, EnrolRequest)
        token = JoinToken.parse(asked.token)
        return json_response(await operators.enrol(token, asked.csr, _address(request)))

    @router.post("/v1/join-manager", tags=["join"])
    async def join_manager(request: Request) -> Response:
        """Admit a manager by its token; asking again gets the same reply until the join is complete
        or expires."""
        asked = await decoded(request, ManagerJoinRequest)
        return json_response(await membership.admit(asked, _address(request)))

    @router.get("/healthz", tags=["health"])
    async def live() -> Response:
        """Answer that the process lives."""
        return json_response({"live": True})

    @router.get("/readyz", tags=["health"])
    async def ready() -> Response:
        """Answer whether this manager can serve: unlocked, quorum, records writable, store
        intact."""
        is_ready, reason = health()
        return json_response({"ready": is_ready, "reason": reason}, 200 if is_ready else 503)

    return router


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
