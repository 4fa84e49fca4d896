"""`service logs`: what a service printed lately, fetched from its nodes and relayed.

Owns who may ask, the record of it, and which nodes are asked. Nothing of it is stored, neither here
nor on a node's disk. Only a service that was made to keep a log is asked about, and only on the
nodes it is placed on now. A manager asks the nodes that have their session with it and names the
managers of the others. Source: docs/how-to/service-logs.md.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from cluster.control.moments import moment
from cluster.control.policy import Action, Principal, authorize
from cluster.control.requests import JSON, Requests
from cluster.control.services import get_service, service_resource
from cluster.protocol.errors import (
    ClusterError,
    Conflict,
    InvalidRequest,
    PermissionDenied,
    TooManyRequests,
)
from cluster.protocol.ids import NodeId, ServiceId
from cluster.protocol.wire import LOG_LINES, LogChunk
from cluster.store.records import ManagerState, ServiceRecord, TaskState
from cluster.store.steps import Require, Write
from cluster.store.view import View

NODES: Final = 32
"""Nodes that one request asks at most; `nodes` chooses others."""
AT_ONCE: Final = 8
"""Requests that one manager answers at the same time."""
RECORDED_S: Final = 600.0
"""Who follows a log is on record once in this time, not with each look."""
MAX_RECORDED: Final = 1_000


class LogSource(Protocol):
    """The nodes with a session on this manager."""

    def is_here(self, node_id: NodeId) -> bool:
        """Return whether a node can be asked."""
        ...

    async def fetch(
        self, node_id: NodeId, service_id: ServiceId, tail: int, after_s: float | None
    ) -> LogChunk:
        """Return lines of a service's output on a node; raises ClusterError."""
        ...


class ServiceLogs:
    """What operators may see of services' output."""

    def __init__(self, requests: Requests, source: LogSource) -> None:
        self._requests = requests
        self._source = source
        self._open = 0
        self._recorded: dict[tuple[str, str], float] = {}
        """When a caller's following of a service was recorded last."""

    async def read(
        self,
        principal: Principal,
        name: str,
        *,
        tail: int,
        after: Mapping[str, float],
        nodes: Sequence[str] = (),
    ) -> dict[str, JSON]:
        """Return the last lines of a service on the nodes that are asked here, once the reading is
        on record.

        `after`: cursors of an answer before, by node id: these nodes tell what came behind.
        `nodes`: names to ask, instead of all. Raises Conflict where the service keeps no log.
        """
        if not 0 <= tail <= LOG_LINES:
            raise InvalidRequest(f"the number of lines ranges from 0 to {LOG_LINES}")
        if self._open >= AT_ONCE:
            raise TooManyRequests("this manager reads too many logs; ask again")
        self._open += 1
        try:
            service = await self._record(principal, name, following=bool(after))
            return await self._read(service, tail, after, nodes)
        finally:
            self._open -= 1

    async def _record(self, principal: Principal, name: str, *, following: bool) -> ServiceRecord:
        """Write down who reads, and return the service. Raises PermissionDenied."""
        found: list[ServiceRecord] = []
        self._requests.check(
            principal, Action.SERVICE_LOGS, service_resource(self._requests.store.view, name)
        )
        service = get_service(self._requests.store.view, name).record
        if not service.spec.logs:
            raise Conflict(
                f"service {name!r} keeps no log; have it keep one with "
                f"`strongroom service update {name} --logs`, then start its programs anew"
            )
        now_s = self._requests.clock.monotonic_s()
        key = (principal.name, service.id)
        if following and now_s - self._recorded.get(key, -RECORDED_S) < RECORDED_S:
            return service

        def write(view: View) -> Write:
            entry = authorize(
                principal,
                Action.SERVICE_LOGS,
                service_resource(view, name),
                self._requests.clock.now(),
            )
            stored = get_service(view, name)
            found[:] = [stored.record]
            return Write((Require(stored),), (entry,))

        try:
            await self._requests.store.update(write)
        except PermissionDenied:
            resource = service_resource(self._requests.store.view, name)
            self._requests.note_refusal(principal, Action.SERVICE_LOGS, resource)
            raise
        if len(self._recorded) >= MAX_RECORDED:
            self._recorded.clear()
        self._recorded[key] = now_s
        return found[0]

    async def _read(
        self, service: ServiceRecord, tail: int, after: Mapping[str, float], names: Sequence[str]
    ) -> dict[str, JSON]:
        placed = self._placed(service, names)
        here = [node_id for node_id in placed if self._source.is_here(node_id)]
        asked = here[:NODES]
        told: dict[NodeId, LogChunk] = {}
        silent = dict.fromkeys(here[NODES:], "not asked")

        async def ask(node_id: NodeId) -> None:
            try:
                chunk = await self._source.fetch(
                    node_id, ServiceId(service.id), tail, after.get(node_id)
                )
            except ClusterError as error:
                silent[node_id] = error.message
                return
            if chunk.error:
                silent[node_id] = chunk.error
            else:
                told[node_id] = chunk

        async with asyncio.TaskGroup() as group:
            for node_id in asked:
                group.create_task(ask(node_id))
        return {
            "lines": _merged({placed[node_id]: chunk for node_id, chunk in told.items()}),
            "cursors": {node_id: chunk.cursor_s for node_id, chunk in told.items()},
            "elsewhere": self._elsewhere([i for i in placed if i not in here]),
            "silent": [{"node": placed[i], "reason": reason} for i, reason in silent.items()],
        }

    def _placed(self, service: ServiceRecord, names: Sequence[str]) -> dict[NodeId, str]:
        """Return the nodes that have the service now, with their names."""
        view = self._requests.store.view
        found: dict[NodeId, str] = {}
        for stored in view.tasks_of_service(ServiceId(service.id)):
            node = view.nodes.get(stored.record.node_id)
            if node is not None and stored.record.state is TaskState.RUNNING:
                found[stored.record.node_id] = node.record.name
        return {i: name for i, name in found.items() if not names or name in names}

    def _elsewhere(self, node_ids: Sequence[NodeId]) -> list[dict[str, JSON]]:
        """Return which managers the other nodes have their session with, as far as is known."""
        view = self._requests.store.view
        told: list[dict[str, JSON]] = []
        for node_id in node_ids:
            node, status = view.nodes.get(node_id), view.node_statuses.get(node_id)
            manager = view.managers.get(status.record.manager_id) if status is not None else None
            active = manager is not None and manager.record.state is ManagerState.ACTIVE
            address = manager.record.api_address if manager is not None and active else ""
            told.append({"node": node.record.name if node else node_id, "manager": address})
        return told


def _merged(chunks: Mapping[str, LogChunk]) -> list[JSON]:
    """Return the lines of several nodes in the order of their calendars."""
    lines = [(line.time_s, node, line) for node, chunk in chunks.items() for line in chunk.lines]
    # Sorting is stable: the lines of one moment stay in the order in which their node has them.
    lines.sort(key=lambda one: one[:2])
    return [
        {"node": node, "at": _moment(time_s), "stream": line.stream, "text": line.text}
        for time_s, node, line in lines
    ]


def _moment(time_s: float) -> JSON:
    """Return a node's word for a time; it may say anything."""
    try:
        return moment(time_s)
    except (ValueError, OverflowError, OSError):
        return None
