"""Asking a node for lines of a service's output, over its session.

Owns the waiting for answers: one request, one chunk, within its time and bounds. What a node says
is believed of its own task only, and kept nowhere. Source: docs/how-to/service-logs.md.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

from cluster.dispatcher.presence import Presence
from cluster.dispatcher.session_ports import Link
from cluster.protocol import wire
from cluster.protocol.errors import SessionExpired, Unavailable
from cluster.protocol.ids import NodeId, ServiceId

ANSWER_S: Final = 5.0
PENDING: Final = 16
"""Requests to one node that wait at the same time at most."""
_REASONS: Final = frozenset({"service_not_found", "too_many_requests", "unavailable"})
"""What a node may say instead of lines."""


@dataclass(slots=True)
class LogCalls:
    """The requests of one session that wait for their answer."""

    _waiting: dict[int, asyncio.Future[wire.LogChunk]] = field(default_factory=dict)
    _count: int = 0

    async def ask(
        self, link: Link, service_id: ServiceId, tail: int, after_s: float | None
    ) -> wire.LogChunk:
        """Return what the agent answers, cut to the bounds. Raises Unavailable, SessionExpired."""
        if len(self._waiting) >= PENDING:
            raise Unavailable("the node is being asked for too many logs; ask again")
        self._count += 1
        number = self._count
        answer: asyncio.Future[wire.LogChunk] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(ANSWER_S):
                await link.send(wire.LogRequest(number, service_id, tail, after_s))
                return _bounded(await answer)
        except TimeoutError:
            raise Unavailable("the node does not answer") from None
        finally:
            del self._waiting[number]

    def take(self, chunk: wire.LogChunk) -> None:
        """Hand a chunk to who waits for it; one that nobody waits for is dropped."""
        answer = self._waiting.get(chunk.number)
        if answer is not None and not answer.done():
            answer.set_result(chunk)

    def end(self) -> None:
        """Let everybody know who waits that the session is over."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(SessionExpired("the session ended"))


@runtime_checkable
class AsksForLogs(Protocol):
    """A session over which lines can be asked for."""

    async def fetch_logs(
        self, service_id: ServiceId, tail: int, after_s: float | None
    ) -> wire.LogChunk:
        """Return lines of a service on the node; raises ClusterError."""
        ...


@dataclass(frozen=True, slots=True)
class NodeLogs:
    """The logs of the nodes that have a session on this manager."""

    presence: Presence

    def is_here(self, node_id: NodeId) -> bool:
        """Return whether a node can be asked."""
        return bool(self.presence.sessions_of(node_id))

    async def fetch(
        self, node_id: NodeId, service_id: ServiceId, tail: int, after_s: float | None
    ) -> wire.LogChunk:
        """Return lines of a service's output on a node. Raises Unavailable, SessionExpired."""
        for session in reversed(self.presence.sessions_of(node_id)):
            if isinstance(session, AsksForLogs):
                return await session.fetch_logs(service_id, tail, after_s)
        raise Unavailable("the node has no session here; ask again")


def _bounded(chunk: wire.LogChunk) -> wire.LogChunk:
    """Return a chunk with no more than was asked for, whatever the node sent."""
    kept: list[wire.LogLine] = []
    size = 0
    for line in chunk.lines[: wire.LOG_LINES]:
        size += len(line.text)
        if size > 2 * wire.LOG_BYTES:
            break
        kept.append(line)
    error = chunk.error if chunk.error in _REASONS else ""
    return wire.LogChunk(chunk.number, tuple(kept), chunk.cursor_s, error)
