"""Events, line by line as they happen."""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Final

import msgspec
import structlog
from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from cluster.api.edge import Edge
from cluster.api.peer import caller_of
from cluster.control.callers import principal_of
from cluster.control.events import EventFilter, Events, Line
from cluster.control.policy import Principal
from cluster.protocol.errors import ClusterError, TooManyRequests

log = structlog.get_logger(__name__)

STREAMS: Final = 32
"""Open at once on one manager: each reads the engine's history for itself."""
STREAMS_PER_CALLER: Final = 4
NDJSON: Final = "application/x-ndjson"

Terms = Annotated[list[str] | None, Query(max_length=50)]


class Places:
    """Who has how many streams open on this manager."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    def take(self, caller: str) -> None:
        """Take a place, or raise TooManyRequests."""
        if self._taken[caller] >= STREAMS_PER_CALLER or self._taken.total() >= STREAMS:
            raise TooManyRequests("too many streams of events are open; end one, or ask later")
        self._taken[caller] += 1

    def free(self, caller: str) -> None:
        """Give a place back."""
        self._taken[caller] -= 1
        if not self._taken[caller]:
            del self._taken[caller]


class EventStream(StreamingResponse):
    """An answer of lines that gives its place back however it ends, begun or not."""

    def __init__(self, lines: AsyncGenerator[Line, None], places: Places, caller: str) -> None:
        super().__init__(_encoded(lines), media_type=NDJSON)
        self._lines = lines
        self._places = places
        self._caller = caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._places.free(self._caller)
            await self._lines.aclose()


def routes(edge: Edge, events: Events) -> APIRouter:
    """Return the route of events."""
    router = APIRouter(prefix="/v1", tags=["events"])
    places = Places()

    @router.get("/events")
    async def follow_events(
        request: Request,
        follow: bool = False,
        since: Annotated[str | None, Query(max_length=100)] = None,
        type: Terms = None,  # noqa: A002  # the parameter's name in the API
        action: Terms = None,
        name: Terms = None,
    ) -> Response:
        """Show what happened to secrets, services, nodes, managers and operators, and who did it:
        one JSON object a line, in the order of commit. Begins behind revision `since`, else with
        all that is kept, or with `follow` now. A line with nothing but a revision says that all
        events up to it were sent: ask on from there."""
        principal = await edge.principal(request)
        wanted = EventFilter.of(type or (), action or (), name or ())
        caller = caller_of(request.scope)

        def who() -> Principal:
            return principal_of(caller, edge.store.view)

        places.take(principal.name)
        try:
            lines = await events.open(who, wanted, since=since, follow=follow)
        except BaseException:
            places.free(principal.name)
            raise
        return EventStream(lines, places, principal.name)

    return router


async def _encoded(lines: AsyncGenerator[Line, None]) -> AsyncGenerator[bytes, None]:
    """Encode lines; an error becomes the last one, since the status has been sent."""
    try:
        async for line in lines:
            yield _line(line)
    except ClusterError as error:
        log.warning("events.ended", code=error.code)
        yield _line({"error": {"code": error.code, "message": error.message}})


def _line(content: Mapping[str, object]) -> bytes:
    return msgspec.json.encode(content) + b"\n"
