"""`/v1/audit`: reading the audit and having its chains verified; on the admin socket, what was
exported from them."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from cluster.api.edge import Edge
from cluster.api.error_map import json_response
from cluster.control.audit_archives import AuditArchives
from cluster.control.audit_query import MOST_ENTRIES, AuditFilter, AuditQuery
from cluster.control.requests import JSON
from cluster.protocol.errors import ClusterError, InvalidRequest

MOST_POSITION = 2**62


def routes(edge: Edge, audit: AuditQuery) -> APIRouter:
    """Return the routes of the audit."""
    router = APIRouter(prefix="/v1")

    @router.get("/audit", tags=["audit"])
    async def read_audit(
        request: Request,
        *,
        order: Literal["oldest", "newest"] = "oldest",
        cursor: Annotated[int | None, Query(ge=0, le=MOST_POSITION)] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_ENTRIES)] = MOST_ENTRIES,
        since: str = "",
        until: str = "",
        caller: str = "",
        action: str = "",
        resource: str = "",
        request_id: str = "",
        refused: bool = False,
    ) -> Response:
        """Show a page of the audit's entries, in the order of commit. `next` is the cursor of the
        next page, null at the end; a page may be empty and not the last. The read is on record."""
        principal = await edge.principal(request)
        wanted = AuditFilter(
            _moment(since), _moment(until), caller, action, resource, request_id, refused
        )
        return edge.answer(
            await audit.read(
                principal, wanted, newest=order == "newest", cursor=cursor, limit=limit
            )
        )

    @router.get("/audit/verification", tags=["audit"])
    async def verify_audit(request: Request) -> Response:
        """Recompute every audit chain in the store from its checkpoint on, compare every record
        with what they tell, and show the verdict."""
        return edge.answer(await audit.verify(await edge.principal(request)))

    return router


def archive_routes(archives: Callable[[], AuditArchives]) -> APIRouter:
    """Return the routes of the admin socket; `archives` raises while the manager is locked."""
    router = APIRouter(prefix="/admin", tags=["admin"])

    @router.get("/audit/archives")
    async def verify_archives() -> Response:
        """Show this manager's audit export files, each with the verdict on it."""
        return json_response(await archives().verify())

    @router.get("/audit/archives/{name}")
    async def read_archive(name: str) -> Response:
        """Show every entry in an export file, one a line; the last line says `done`, or the
        error that ended it."""
        return StreamingResponse(
            _lines(archives().entries(name)), media_type="application/x-ndjson"
        )

    return router


async def _lines(entries: AsyncIterator[dict[str, JSON]]) -> AsyncIterator[bytes]:
    try:
        async for entry in entries:
            yield msgspec.json.encode(entry) + b"\n"
        yield msgspec.json.encode({"done": True}) + b"\n"
    except ClusterError as error:
        # The status has been sent: an error becomes the last line.
        yield msgspec.json.encode({"error": {"code": error.code, "message": error.message}}) + b"\n"


def _moment(text: str) -> float | None:
    """Return Unix seconds of ISO 8601; UTC where it names no zone."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest("moments read 2026-01-31T12:00:00Z") from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
