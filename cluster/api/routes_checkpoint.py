"""`/v1/audit/checkpoint`: where the audit's chains stand, signed, and if they still hold it."""

from collections.abc import Callable

from fastapi import APIRouter, Request
from starlette.responses import Response

from cluster.api.edge import Edge
from cluster.control.audit_statements import AuditStatements


def routes(edge: Edge, statements: Callable[[], AuditStatements]) -> APIRouter:
    """Return the routes; `statements` raises Locked before there is a certificate to sign with."""
    router = APIRouter(prefix="/v1")

    @router.get("/audit/checkpoint", tags=["audit"])
    async def sign_checkpoint(request: Request) -> Response:
        """Recompute every audit chain, and state with this manager's signature where each of them
        stands: a DSSE envelope, to be kept outside the cluster. It is on record."""
        principal = await edge.principal(request)
        return Response(await statements().make(principal), media_type="application/json")

    @router.post("/audit/verification", tags=["audit"])
    async def verify_against_checkpoint(request: Request) -> Response:
        """Verify the audit, and that the store still holds what the signed checkpoint in the body
        states; show the verdict on both."""
        principal = await edge.principal(request)
        return edge.answer(await statements().compare(principal, await request.body()))

    return router
