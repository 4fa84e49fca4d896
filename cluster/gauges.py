"""What a scrape reads off the state of a manager: readings, made when they are asked for.

Owns which readings there are and how they are taken; what is counted while it happens is
`cluster.metrics`'s. It reads and judges nothing: thresholds stand in the rules of docs/how-to/
alerts. No reading has a name for a label; a node's id is random, and no name.
"""

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from cluster.control.delivered import must_rotate
from cluster.control.issuing import authority_ends
from cluster.control.refusals import Refusals
from cluster.control.rotation_shown import failing_rotations
from cluster.dispatcher.presence import Presence
from cluster.duties import ALIVE_PREFIX, DUTY
from cluster.engine.seam import Engine
from cluster.metrics import Gauge, Metrics
from cluster.protocol.errors import ClusterError
from cluster.protocol.ids import ManagerId, NodeId
from cluster.standing import State
from cluster.store.records import Kind, ManagerState, NodeState, ReceiptRecord
from cluster.store.sealed_store import SealedStore
from cluster.store.start_check import checkpoint_of
from cluster.store.view import ViewChange
from cluster.system import Clock
from cluster.writability import Writability

ENGINE_S: Final = 2.0
"""How long a scrape waits for the engine; afterwards its readings are left out."""
SLOW_S: Final = 30.0
"""Readings that look at every secret are taken this often at most."""
NODES: Final = 100
"""Most nodes that a scrape tells of one by one: the more series, the more a scraper has to keep."""


@dataclass(slots=True)
class Behind:
    """One node's receipts that no agent has completed yet."""

    receipts: int
    oldest_at: float
    """When the oldest was issued, in Unix seconds."""


@dataclass(slots=True)
class Receipts:
    """Receipts that no agent has completed yet, and what becomes of this manager's own."""

    store: SealedStore
    manager_id: ManagerId
    metrics: Metrics
    _waiting: dict[str, tuple[NodeId, float]] = field(default_factory=dict)

    def follow(self) -> None:
        """Take the receipts that are there, and follow what changes."""
        for stored in self.store.view.receipts.values():
            self._note(stored.record.id, stored.record)
        self.store.view.subscribe(self._on_change)

    def behind(self) -> dict[NodeId, Behind]:
        """Return how far each node is behind, those left out that were evicted or are not."""
        found: dict[NodeId, Behind] = {}
        for node_id, issued_at in self._waiting.values():
            one = found.get(node_id)
            if one is None:
                found[node_id] = Behind(1, issued_at)
            else:
                one.receipts += 1
                one.oldest_at = min(one.oldest_at, issued_at)
        nodes = self.store.view.nodes
        return {
            node_id: one
            for node_id, one in found.items()
            if (node := nodes.get(node_id)) is not None and node.record.revoked_at is None
        }

    def _on_change(self, change: ViewChange) -> None:
        for kind, record_id, before, after in change.changed:
            if kind is not Kind.RECEIPT:
                continue
            self._note(record_id, after if isinstance(after, ReceiptRecord) else None)
            if isinstance(after, ReceiptRecord) and after.issued_by == self.manager_id:
                self._count(before if isinstance(before, ReceiptRecord) else None, after)

    def _note(self, record_id: str, record: ReceiptRecord | None) -> None:
        if record is None or record.acked_at is not None or record.dropped_at is not None:
            self._waiting.pop(record_id, None)
        else:
            self._waiting[record_id] = record.node_id, record.issued_at

    def _count(self, before: ReceiptRecord | None, after: ReceiptRecord) -> None:
        if before is None or before.issued_at != after.issued_at:
            self.metrics.delivered()
        if after.acked_at is not None and (before is None or before.acked_at is None):
            self.metrics.acknowledged(after.acked_at - after.issued_at)


@dataclass(slots=True)
class Gauges:
    """The readings of an unlocked manager."""

    store: SealedStore
    engine: Engine
    presence: Presence
    refusals: Refusals
    writability: Writability
    receipts: Receipts
    clock: Clock
    certificate_end_s: Callable[[], float]
    """When this manager's own certificate ends, in Unix seconds."""
    audit_links: Callable[[], int]
    """How many links lie behind the checkpoint, as the holder of the duty counts them."""
    _slow: tuple[float, tuple[Gauge, ...]] | None = None

    async def read(self) -> list[Gauge]:
        """Return every reading; those of an engine that does not answer are left out."""
        return [
            *self._own(),
            *self._members(),
            *self._deliveries(),
            *self._certificates(),
            *self._audit(),
            *self._of_secrets(),
            *await self._engine(),
        ]

    def _own(self) -> Iterator[Gauge]:
        yield _one("writable", "Whether a record can be written.", not self.writability.reason)
        faults = len(self.store.view.faults)
        yield _one("integrity_faults", "Kinds of stored data that failed their check.", faults)
        yield _one("sessions", "Agents that hold a session here.", self.presence.connected())
        yield _one("refusals_waiting", "Refusals not on record yet.", self.refusals.waiting())

    def _members(self) -> Iterator[Gauge]:
        view = self.store.view
        states = Counter(
            (status.record.state if status else NodeState.UNKNOWN).value
            for node in view.nodes.values()
            if node.record.revoked_at is None
            for status in [view.node_statuses.get(node.record.id)]
        )
        nodes = {state.value: float(states[state.value]) for state in NodeState}
        yield Gauge("strongroom_nodes", "Nodes by state, those evicted left out.", nodes, "state")
        yield _one("services", "Services.", len(view.services))
        rollouts = Counter(
            one.record.state.value
            for one in view.rollouts.values()
            if one.record.finished_at is None
        )
        known = {state: float(rollouts[state]) for state in ("running", "paused", "rolling_back")}
        yield Gauge("strongroom_rollouts_open", "Rollouts that are not over.", known, "state")

    def _deliveries(self) -> Iterator[Gauge]:
        behind = self.receipts.behind()
        now_s = self.clock.now().timestamp()
        receipts = sum(one.receipts for one in behind.values())
        oldest_at = min((one.oldest_at for one in behind.values()), default=now_s)
        yield _one(
            "receipts_unacknowledged", "Versions handed out and not reported written.", receipts
        )
        yield _one("nodes_behind", "Nodes with such a version.", len(behind))
        yield _one(
            "receipt_oldest_seconds", "Age of the oldest of them.", max(0.0, now_s - oldest_at)
        )
        # By age, as the alert is: whoever raises it is among them.
        shown = heapq.nsmallest(NODES, behind.items(), key=lambda one: (one[1].oldest_at, one[0]))
        yield Gauge(
            "strongroom_node_receipts_unacknowledged",
            "Versions handed out and not reported written, by node; those behind longest alone.",
            {node_id: float(one.receipts) for node_id, one in shown},
            "node",
        )
        yield Gauge(
            "strongroom_node_receipt_oldest_seconds",
            "Age of the oldest of them, by node; those behind longest alone.",
            {node_id: max(0.0, now_s - one.oldest_at) for node_id, one in shown},
            "node",
        )

    def _certificates(self) -> Iterator[Gauge]:
        """The least time left, by whom it is; nodes without a session are counted as such."""
        view, now_s = self.store.view, self.clock.now().timestamp()
        ends: dict[str, list[float]] = {
            "manager": [self.certificate_end_s()],
            "node": [
                node.record.not_after
                for node in view.nodes.values()
                if node.record.revoked_at is None
                and (status := view.node_statuses.get(node.record.id)) is not None
                and status.record.state is NodeState.READY
            ],
            "operator": [
                one.record.not_after
                for one in view.operators.values()
                if one.record.removed_at is None and one.record.serials
            ],
            "authority": [ends.timestamp() for _role, ends in authority_ends(view)],
        }
        left = {whose: min(moments) - now_s for whose, moments in ends.items() if moments}
        yield Gauge(
            "strongroom_certificate_seconds_left",
            "Until the first certificate ends: this manager's, a connected node's, an operator's, "
            "an authority's.",
            left,
            "whose",
        )

    def _audit(self) -> Iterator[Gauge]:
        yield _one("audit_chains", "Audit chains in the store.", len(self.store.view.audit_streams))
        checkpoint = checkpoint_of(self.store)
        if checkpoint is not None:
            yield _one("audit_checkpoint_timestamp_seconds", "Last export.", checkpoint.at)

    def _of_secrets(self) -> tuple[Gauge, ...]:
        now_s = self.clock.monotonic_s()
        if self._slow is None or now_s - self._slow[0] >= SLOW_S:
            self._slow = now_s, tuple(self._slowly())
        return self._slow[1]

    def _slowly(self) -> Iterator[Gauge]:
        view = self.store.view
        yield _one("secrets", "Secrets.", len(view.secrets))
        exposed = sum(bool(must_rotate(stored.record)) for stored in view.secrets.values())
        yield _one("secrets_exposed", "Secrets that an evicted node held, to be rotated.", exposed)
        failing = failing_rotations(view)
        yield _one("rotations_failing", "Secrets whose scheduled rotation fails.", failing)

    async def _engine(self) -> list[Gauge]:
        try:
            async with asyncio.timeout(ENGINE_S):
                status = await self.engine.status()
                holders = await self.engine.holders()
        except (ClusterError, TimeoutError):
            return [_one("engine_up", "Whether the engine answers.", 0)]
        own = self.presence.manager_id
        alive = {name.removeprefix(ALIVE_PREFIX) for name in holders if _is_alive(name)}
        active = [
            one.record.id
            for one in self.store.view.managers.values()
            if one.record.state is ManagerState.ACTIVE
        ]
        up = len([manager_id for manager_id in active if manager_id in alive])
        holds = holders.get(DUTY) == own
        links = _one(
            "audit_links", "Links behind the checkpoint; from the holder alone.", self.audit_links()
        )
        return [
            *([links] if holds else []),
            _one("engine_up", "Whether the engine answers.", 1),
            _one("engine_has_leader", "Whether it has a leader.", bool(status.leader)),
            _one("engine_size_bytes", "Bytes its data take.", status.size_bytes),
            _one("engine_quota_bytes", "Bytes they may take; 0: no limit.", status.quota_bytes),
            _one("engine_alarms", "Alarms it raised.", len(status.alarms)),
            _one("engine_revision", "Its revision.", status.revision),
            _one("duty_holder", "Whether this manager holds the duties.", holds),
            _one("duty_held", "Whether any manager does.", DUTY in holders),
            Gauge(
                "strongroom_managers",
                "Managers that are part of the cluster, by whether they show a sign of life.",
                {"ready": float(up), "down": float(len(active) - up)},
                "state",
            ),
        ]


def state_gauges(state: State, *, ready: bool) -> list[Gauge]:
    """Return the readings that every manager has, locked or not."""
    return [
        Gauge(
            "strongroom_manager_state",
            "Where this manager stands: 1 for the state it is in.",
            {one.value: float(one is state) for one in State},
            "state",
        ),
        _one("ready", "What /readyz answers.", ready),
    ]


def _is_alive(name: str) -> bool:
    return name.startswith(ALIVE_PREFIX)


def _one(name: str, help_text: str, value: float) -> Gauge:
    return Gauge(f"strongroom_{name}", help_text, {"": float(value)})
