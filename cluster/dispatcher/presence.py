"""Who is connected here, and what the other managers are told about it.

Keeps the sessions of this manager, wakes those that a change affects, and writes a node's status
record when its session opens or has been gone for a while. A node that fails over opens its next
session within a second, so a closed session is not yet a node that is down.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
import structlog

from cluster.engine.seam import Compare
from cluster.protocol.errors import ClusterError
from cluster.protocol.ids import ManagerId, NodeId, SecretId, ServiceId
from cluster.protocol.wire import Hello
from cluster.store.holds import nodes_moved
from cluster.store.records import (
    Kind,
    NodeState,
    NodeStatusRecord,
    ReceiptRecord,
    Record,
    RolloutRecord,
    SecretRecord,
    ServiceRecord,
    TaskRecord,
)
from cluster.store.sealed_store import Create, Replace, SealedStore, Write
from cluster.store.view import Stored, View, ViewChange
from cluster.system import Clock

log = structlog.get_logger(__name__)

DOWN_AFTER_S: Final = 15.0
"""A node without a session for this long is down, and its tasks move."""
SWEEP_S: Final = 2.0


class NodeSession(Protocol):
    """A session, as far as it is known here."""

    session_id: str

    @property
    def node_id(self) -> NodeId:
        """The node at its other end."""
        ...

    @property
    def address(self) -> str:
        """Where it comes from."""
        ...

    def wake(self) -> None:
        """Tell it that something of its node changed."""
        ...


@dataclass(slots=True)
class Presence:
    """The sessions of this manager and the status records of its nodes."""

    store: SealedStore
    clock: Clock
    manager_id: ManagerId
    _sessions: dict[NodeId, list[NodeSession]] = field(default_factory=dict)
    _gone_since: dict[NodeId, float] = field(default_factory=dict)

    async def opened(self, session: NodeSession, hello: Hello) -> None:
        """Register a session and record that its node is ready."""
        self._sessions.setdefault(session.node_id, []).append(session)
        status = NodeStatusRecord(
            id=session.node_id,
            state=NodeState.READY,
            manager_id=self.manager_id,
            session_id=session.session_id,
            since=self.clock.now().timestamp(),
            address=session.address,
            agent_version=hello.agent_version[:32],
            mounts=hello.mounts[:16],
            strength=hello.strength[:16],
            boot_id=hello.boot_id[:64],
        )
        await self.store.update(lambda view: _write(view.node_statuses.get(status.id), status))

    def closed(self, session: NodeSession) -> None:
        """Forget a session; the node stays ready until it has been gone for `DOWN_AFTER_S`."""
        sessions = self._sessions.get(session.node_id, [])
        if session in sessions:
            sessions.remove(session)
        if not sessions:
            self._sessions.pop(session.node_id, None)

    def connected(self) -> int:
        """Return how many nodes have a session here."""
        return len(self._sessions)

    def sessions_of(self, node_id: NodeId) -> tuple[NodeSession, ...]:
        """Return the sessions of a node on this manager."""
        return tuple(self._sessions.get(node_id, ()))

    def on_change(self, change: ViewChange) -> None:
        """Wake every session whose node a change affects."""
        affected: set[NodeId] = set()
        if any(kind is Kind.MANAGER for kind, *_ in change.changed):
            affected.update(self._sessions)  # every agent must know where to go when we die
        for _kind, _id, before, after in change.changed:
            for record in (before, after):
                affected.update(_nodes_of(self.store.view, record))
            affected.update(_nodes_released(self.store.view, before, after))
        for node_id in affected & self._sessions.keys():
            for session in self._sessions[node_id]:
                session.wake()

    async def run(self) -> None:
        """Mark nodes down that left this manager and came back nowhere."""
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self._sweep()
            except ClusterError as error:
                log.warning("presence.sweep_postponed", code=error.code)

    async def _sweep(self) -> None:
        now = self.clock.monotonic_s()
        ours = {
            NodeId(stored.record.id): stored.record
            for stored in self.store.view.node_statuses.values()
            if stored.record.manager_id == self.manager_id
            and stored.record.state is NodeState.READY
        }
        silent = ours.keys() - self._sessions.keys()
        for node_id in silent:
            self._gone_since.setdefault(node_id, now)
        for node_id in list(self._gone_since):
            if node_id not in silent:
                del self._gone_since[node_id]
            elif now - self._gone_since[node_id] >= DOWN_AFTER_S:
                await mark_down(self.store, ours[node_id], self.clock)
                del self._gone_since[node_id]


async def mark_down(
    store: SealedStore, gone: NodeStatusRecord, clock: Clock, guards: tuple[Compare, ...] = ()
) -> None:
    """Record that a node is down, unless it opened another session since `gone` was its status.

    The manager alone does not tell: a node may come back to the one that it left.
    """

    def decide(view: View) -> Write | None:
        stored = view.node_statuses.get(gone.id)
        if (
            stored is None
            or (stored.record.manager_id, stored.record.session_id)
            != (gone.manager_id, gone.session_id)
            or stored.record.state is not NodeState.READY
        ):
            return None
        down = msgspec.structs.replace(
            stored.record, state=NodeState.DOWN, since=clock.now().timestamp()
        )
        return Write(steps=(Replace(stored, down),), guards=guards)

    await store.update(decide)


def _write(before: Stored[NodeStatusRecord] | None, status: NodeStatusRecord) -> Write:
    return Write(steps=(Create(status) if before is None else Replace(before, status),))


def _nodes_released(view: View, before: Record | None, after: Record | None) -> Iterable[NodeId]:
    """Return the nodes that a rollout releases its change to, or holds it back from."""
    then = before if isinstance(before, RolloutRecord) else None
    now = after if isinstance(after, RolloutRecord) else None
    rollout = now or then
    if rollout is None:
        return
    nodes, others = nodes_moved(then, now)
    yield from nodes
    if others:
        changed = (rollout.secret_id, view.secrets), (rollout.service_id, view.services)
        for record_id, table in changed:
            stored = table.get(record_id) if record_id is not None else None
            yield from _nodes_of(view, stored.record if stored is not None else None)


def _nodes_of(view: View, record: Record | None) -> Iterable[NodeId]:
    """Return the nodes whose assignments may follow from a record."""
    match record:
        case TaskRecord(node_id=node_id):
            yield node_id
        case ReceiptRecord():
            return
        case ServiceRecord(id=service_id):
            yield from (
                task.record.node_id for task in view.tasks_of_service(ServiceId(service_id))
            )
        case SecretRecord(id=secret_id):
            for service in view.services_referring_to(SecretId(secret_id)):
                yield from (
                    task.record.node_id
                    for task in view.tasks_of_service(ServiceId(service.record.id))
                )
        case Record(id=record_id) if record.kind is Kind.NODE:
            yield NodeId(record_id)
        case _:
            return
