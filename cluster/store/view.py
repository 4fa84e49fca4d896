"""The view: every record of the store in memory, opened, indexed, at one revision.

Owns the tables, their indexes and who waits for them; `ingest` feeds it from the engine, and
nothing here talks to an engine. Secret values stay sealed (`SealedValues`). Reads raise
IntegrityError for a kind that is poisoned (`tables`).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog

from cluster.protocol.errors import IntegrityError, Unavailable
from cluster.protocol.ids import NodeId, SecretId, ServiceId
from cluster.store.holds import Holds
from cluster.store.indexes import Indexes
from cluster.store.records import (
    AuditCheckpointRecord,
    AuditStreamRecord,
    AuditSummaryRecord,
    AuthorityRecord,
    ClusterRecord,
    ConfigRecord,
    JoinTokenRecord,
    Kind,
    ManagerRecord,
    NameRecord,
    NodeRecord,
    NodeStatusRecord,
    OperatorRecord,
    ReceiptRecord,
    Record,
    RequestRecord,
    RolloutRecord,
    RotationRecord,
    SecretRecord,
    ServiceRecord,
    TaskHistoryRecord,
    TaskRecord,
    TaskStatusRecord,
    VersionedRecord,
    name_id,
)
from cluster.store.tables import SealedRow, SealedValue, SealedValues, Stored, Table

__all__ = [
    "IntegrityFault",
    "RecordChange",
    "SealedRow",
    "SealedValue",
    "SealedValues",
    "Stored",
    "Table",
    "View",
    "ViewChange",
]

log = structlog.get_logger(__name__)

EVERYTHING: Final = "store"
"""Stands for the kind in a fault that concerns all of them."""


class IntegrityFault(NamedTuple):
    """A stored record that is not what was written."""

    kind: str
    what: str


class RecordChange(NamedTuple):
    """What happened to one record."""

    kind: Kind
    id: str
    before: Record | None
    after: Record | None


@dataclass(frozen=True, slots=True)
class ViewChange:
    """All that one revision changed.

    Secret values are left out: their secret's record changes with them.
    """

    revision: int
    changed: tuple[RecordChange, ...]


class View:
    """All records at `revision`; what is read between two awaits is one revision."""

    def __init__(
        self,
        blind_value: Callable[[str], bytes],
        on_fault: Callable[[IntegrityFault], None] | None = None,
    ) -> None:
        self.cluster = Table[ClusterRecord](Kind.CLUSTER)
        self.authorities = Table[AuthorityRecord](Kind.AUTHORITY)
        self.managers = Table[ManagerRecord](Kind.MANAGER)
        self.nodes = Table[NodeRecord](Kind.NODE)
        self.node_statuses = Table[NodeStatusRecord](Kind.NODE_STATUS)
        self.operators = Table[OperatorRecord](Kind.OPERATOR)
        self.join_tokens = Table[JoinTokenRecord](Kind.JOIN_TOKEN)
        self.secrets = Table[SecretRecord](Kind.SECRET)
        self.configs = Table[ConfigRecord](Kind.CONFIG)
        self.services = Table[ServiceRecord](Kind.SERVICE)
        self.tasks = Table[TaskRecord](Kind.TASK)
        self.task_statuses = Table[TaskStatusRecord](Kind.TASK_STATUS)
        self.task_histories = Table[TaskHistoryRecord](Kind.TASK_HISTORY)
        self.receipts = Table[ReceiptRecord](Kind.RECEIPT)
        self.rollouts = Table[RolloutRecord](Kind.ROLLOUT)
        self.rotations = Table[RotationRecord](Kind.ROTATION)
        self.requests = Table[RequestRecord](Kind.REQUEST)
        self.names = Table[NameRecord](Kind.NAME)
        self.audit_streams = Table[AuditStreamRecord](Kind.AUDIT_STREAM)
        self.audit_checkpoints = Table[AuditCheckpointRecord](Kind.AUDIT_CHECKPOINT)
        self.audit_summaries = Table[AuditSummaryRecord](Kind.AUDIT_SUMMARY)
        self.secret_values = SealedValues(blind_value)
        tables = (table for table in vars(self).values() if isinstance(table, Table))
        self._tables: dict[Kind, Table[Record]] = {table.kind: table for table in tables}
        self._indexes = Indexes()
        self._holds = Holds()
        self._revision = 0
        self._faults: list[IntegrityFault] = []
        self._on_fault = on_fault
        self._callbacks: list[Callable[[ViewChange], None]] = []
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    # --- reading --------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """The newest revision that was applied."""
        return self._revision

    @property
    def faults(self) -> tuple[IntegrityFault, ...]:
        """Every integrity fault met since the start."""
        return tuple(self._faults)

    def table(self, kind: Kind) -> Table[Record]:
        """Return the table of a kind; secret values have none."""
        return self._tables[kind]

    def check(self, kind: Kind) -> None:
        """Raise IntegrityError if records of a kind cannot be trusted."""
        (self.secret_values if kind is Kind.SECRET_VALUE else self._tables[kind]).check()

    def secret_by_name(self, name: str) -> Stored[SecretRecord] | None:
        """Return the secret of a name, whatever its case."""
        return self.secrets.get(self._owner(Kind.SECRET, name))

    def config_by_name(self, name: str) -> Stored[ConfigRecord] | None:
        """Return the config of a name, whatever its case."""
        return self.configs.get(self._owner(Kind.CONFIG, name))

    def source(self, secret_id: SecretId) -> Stored[VersionedRecord] | None:
        """Return the secret or the config that a reference means; ids are of one or the other."""
        return self.secrets.get(secret_id) or self.configs.get(secret_id)

    def service_by_name(self, name: str) -> Stored[ServiceRecord] | None:
        """Return the service of a name, whatever its case."""
        return self.services.get(self._owner(Kind.SERVICE, name))

    def node_by_name(self, name: str) -> Stored[NodeRecord] | None:
        """Return the node of a name, whatever its case."""
        return self.nodes.get(self._owner(Kind.NODE, name))

    def tasks_of_node(self, node_id: NodeId) -> tuple[Stored[TaskRecord], ...]:
        """Return the tasks placed on a node."""
        return self.tasks.pick(self._indexes.get("task.node", node_id))

    def tasks_of_service(self, service_id: ServiceId) -> tuple[Stored[TaskRecord], ...]:
        """Return the tasks of a service."""
        return self.tasks.pick(self._indexes.get("task.service", service_id))

    def receipts_of_node(self, node_id: NodeId) -> tuple[Stored[ReceiptRecord], ...]:
        """Return every receipt of a node."""
        return self.receipts.pick(self._indexes.get("receipt.node", node_id))

    def receipts_waiting(self, node_id: NodeId) -> tuple[Stored[ReceiptRecord], ...]:
        """Return the receipts of a node of which nothing was reported yet."""
        return self.receipts.pick(self._indexes.get("receipt.waiting", node_id))

    def receipts_of_task(
        self, service_id: ServiceId, node_id: NodeId
    ) -> tuple[Stored[ReceiptRecord], ...]:
        """Return every receipt of a service on a node."""
        return self.receipts.pick(self._indexes.get("receipt.task", f"{service_id}.{node_id}"))

    def receipts_of_secret(self, secret_id: SecretId) -> tuple[Stored[ReceiptRecord], ...]:
        """Return every receipt of a secret."""
        return self.receipts.pick(self._indexes.get("receipt.secret", secret_id))

    def services_referring_to(self, secret_id: SecretId) -> tuple[Stored[ServiceRecord], ...]:
        """Return the services whose current, previous or held spec refers to a secret."""
        found = self._indexes.get("service.secret", secret_id)
        return self.services.pick(found | self.holds.services_holding(secret_id))

    @property
    def holds(self) -> Holds:
        """What open rollouts keep from tasks."""
        self.rollouts.check()
        return self._holds

    def secrets_scheduled(self) -> tuple[Stored[SecretRecord], ...]:
        """Return the secrets that have a schedule."""
        return self.secrets.pick(self._indexes.get("secret.scheduled", ""))

    def secrets_passing(self) -> tuple[Stored[SecretRecord], ...]:
        """Return the secrets that time may change: a version is active, expires, or is one too
        many."""
        return self.secrets.pick(self._indexes.get("secret.passing", ""))

    def rotations_of(self, secret_id: SecretId) -> tuple[Stored[RotationRecord], ...]:
        """Return the rotations of a secret that are under way or remembered."""
        return self.rotations.pick(self._indexes.get("rotation.secret", secret_id))

    def _owner(self, kind: Kind, name: str) -> str:
        stored = self.names.get(name_id(kind, name))
        return "" if stored is None else stored.record.owner

    # --- waiting --------------------------------------------------------------------------------

    async def wait_for(self, revision: int, timeout_s: float) -> None:
        """Return once the view shows `revision`; raise Unavailable after `timeout_s` seconds."""
        if self._revision >= revision:
            return
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (revision, reached)
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await reached
        except TimeoutError:
            raise Unavailable(
                "this manager has not caught up; retry, or ask another manager"
            ) from None
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def subscribe(self, callback: Callable[[ViewChange], None]) -> Callable[[], None]:
        """Have `callback` called after each revision was applied; return what ends that.

        It runs inside the feeding of the view, so it must be short; the view shows the revision it
        is called with.
        """
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

    # --- feeding (by `ingest` alone) ------------------------------------------------------------

    def put(self, stored: Stored[Record]) -> RecordChange:
        """Take in a new state of a record."""
        record = stored.record
        table = self._tables[record.kind]
        before = table.rows.get(record.id)
        table.rows[record.id] = stored
        self._indexes.move(before.record if before else None, record)
        if table.order is not None:
            table.order.move(before.record if before else None, record)
        if isinstance(record, RolloutRecord):
            self._holds.put(record)
        return RecordChange(record.kind, record.id, before.record if before else None, record)

    def drop(self, kind: Kind, record_id: str) -> RecordChange | None:
        """Take out a record."""
        table = self._tables[kind]
        before = table.rows.pop(record_id, None)
        if before is None:
            return None
        self._indexes.move(before.record, None)
        if table.order is not None:
            table.order.move(before.record, None)
        if isinstance(before.record, RolloutRecord):
            self._holds.drop(before.record)
        return RecordChange(kind, record_id, before.record, None)

    def fault(self, kind: str, what: str) -> None:
        """Report an integrity fault and serve nothing more of its kind."""
        fault = IntegrityFault(kind, what)
        log.error("store.integrity", kind=kind, what=what)
        self._faults.append(fault)
        for collection in (*self._tables.values(), self.secret_values):
            if kind in (collection.kind, EVERYTHING):
                collection.poison(what)
        if self._on_fault is not None:
            self._on_fault(fault)

    def reached(self, revision: int, changed: tuple[RecordChange, ...]) -> None:
        """Show a revision whose changes were all taken in; wake and call whoever waits for it."""
        self._revision = max(self._revision, revision)
        due = [waiter for waiter in self._waiting if waiter[0] <= self._revision]
        self._waiting = [waiter for waiter in self._waiting if waiter[0] > self._revision]
        for _, future in due:
            if not future.done():
                future.set_result(None)
        for callback in tuple(self._callbacks):
            _notify(callback, ViewChange(self._revision, changed))


def _notify(callback: Callable[[ViewChange], None], change: ViewChange) -> None:
    try:
        callback(change)
    except IntegrityError as error:
        # The callback asked for a poisoned kind. The fault was reported when it was met; others
        # must still be called.
        log.warning("store.callback_refused", code=error.code)
