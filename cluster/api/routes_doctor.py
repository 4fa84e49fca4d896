"""What `strongroom doctor` asks of the manager on its machine."""

from collections.abc import Callable
from dataclasses import asdict

from fastapi import APIRouter
from starlette.responses import Response

from cluster.api.error_map import json_response
from cluster.doctor.members import MemberChecks


def routes(members: Callable[[], MemberChecks]) -> APIRouter:
    """Return the route, for the admin socket; `members` raises while the manager is locked."""
    router = APIRouter(prefix="/admin", tags=["admin"])

    @router.get("/doctor")
    async def look() -> Response:
        """Check what expires, and the clocks and certificates of all managers."""
        found = await members().run()
        return json_response({"checks": [asdict(check) for check in found]})

    return router
