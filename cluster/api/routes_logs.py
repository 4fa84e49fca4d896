"""`/v1/services/NAME/logs`: what a service printed lately."""

import math
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from cluster.api.edge import Edge
from cluster.control.service_logs import NODES, ServiceLogs
from cluster.protocol.errors import InvalidRequest
from cluster.protocol.ids import is_id

Cursors = Annotated[list[str] | None, Query(max_length=16 * NODES)]
"""Also of the nodes of other managers: who asks need not know which is whose."""
Names = Annotated[list[str] | None, Query(max_length=NODES)]


def routes(edge: Edge, logs: ServiceLogs) -> APIRouter:
    """Return the route of services' output."""
    router = APIRouter(prefix="/v1", tags=["services"])

    @router.get("/services/{name}/logs")
    async def read_logs(
        request: Request, name: str, tail: int = 100, after: Cursors = None, node: Names = None
    ) -> Response:
        """Show the last lines that a service printed under `strongroom-agent exec`, from the nodes
        that have their session with this manager; `elsewhere` names the managers of the others.
        With `after` (NODE_ID:CURSOR of an answer before) show what came behind. Nothing of it is
        stored."""
        principal = await edge.principal(request)
        cursors = dict(_cursor(text) for text in after or ())
        answer = await logs.read(principal, name, tail=tail, after=cursors, nodes=node or ())
        return edge.answer(answer)

    return router


def _cursor(text: str) -> tuple[str, float]:
    node_id, _, number = text.partition(":")
    try:
        cursor_s = float(number)
    except ValueError:
        cursor_s = math.nan
    if not is_id(node_id) or not math.isfinite(cursor_s):
        raise InvalidRequest("a cursor reads NODE_ID:SECONDS, as an answer before gave it")
    return node_id, cursor_s
