"""Which node runs which service: the pure half of placement.

Rules, in this order. A task stays where it is while its node may keep it: nothing is moved to make
the spread nicer. A task leaves a node that is drained, removed, or no longer fits the constraints.
A task on a node that is down is replaced elsewhere, and kept if there is no elsewhere: the node
comes back with it. New tasks go to nodes with a session, the least loaded first. Two services of
one uid never share a node, because a uid is what separates them there; the older service wins.
The same input gives the same output, on any manager. Source: DESIGN 6.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from cluster.control.constraints import satisfies
from cluster.protocol.ids import NodeId, ServiceId
from cluster.store.records import (
    Availability,
    NodeRecord,
    NodeState,
    ServiceRecord,
    TaskRecord,
    TaskState,
    task_id,
)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A task that cannot be placed, and why; for the log and `service ps`."""

    service_id: ServiceId
    reason: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What placement wants to change."""

    create: tuple[TaskRecord, ...]
    remove: tuple[TaskRecord, ...]
    skipped: tuple[Skipped, ...]

    @property
    def unsettled(self) -> frozenset[ServiceId]:
        """Services of which a task is still to be placed, moved or removed."""
        tasks = (*self.create, *self.remove)
        return frozenset({t.service_id for t in tasks} | {s.service_id for s in self.skipped})


def place(
    services: Iterable[ServiceRecord],
    nodes: Iterable[NodeRecord],
    states: Mapping[str, NodeState],
    tasks: Iterable[TaskRecord],
    now_s: float,
    shared_uids: Collection[str] = (),
    held_uids: Mapping[str, Collection[int]] | None = None,
) -> Changes:
    """Return the changes that bring the tasks to where they belong.

    `states`: what to take each node for, by id; a node without an entry is unknown. `shared_uids`:
    ids of nodes that mount into given volumes, where one uid may serve several services.
    `held_uids`: uids of former specs that tasks of a service still run under, by its id.
    """
    plan = _Plan(nodes, states, tasks, now_s, shared_uids, held_uids or {})
    ordered = sorted(services, key=lambda service: (service.created_at, service.id))
    plan.remove_orphans({service.id for service in ordered})
    for service in ordered:
        plan.keep(service)
    for service in ordered:
        plan.add(service)
    return plan.changes()


@dataclass(slots=True)
class _Kept:
    """The tasks a service has and may keep."""

    steady: list[TaskRecord] = field(default_factory=list)
    stranded: list[TaskRecord] = field(default_factory=list)
    """On nodes that are down."""


class _Plan:
    """Placement at work: first what stays, then what is added."""

    def __init__(
        self,
        nodes: Iterable[NodeRecord],
        states: Mapping[str, NodeState],
        tasks: Iterable[TaskRecord],
        now_s: float,
        shared_uids: Collection[str],
        held_uids: Mapping[str, Collection[int]],
    ) -> None:
        self._nodes = {node.id: node for node in sorted(nodes, key=lambda node: node.id)}
        self._states = states
        self._now_s = now_s
        self._shared_uids = shared_uids
        self._held_uids = held_uids
        self._tasks: dict[str, list[TaskRecord]] = {}
        for task in sorted(tasks, key=lambda task: task.id):
            self._tasks.setdefault(task.service_id, []).append(task)
        self._load: Counter[str] = Counter()
        self._uids: dict[tuple[str, int], str] = {}
        self._kept: dict[str, _Kept] = {}
        self._create: list[TaskRecord] = []
        self._remove: list[TaskRecord] = []
        self._skipped: list[Skipped] = []

    def changes(self) -> Changes:
        """Return what was decided."""
        return Changes(tuple(self._create), tuple(self._remove), tuple(self._skipped))

    def remove_orphans(self, service_ids: Collection[str]) -> None:
        """Remove the tasks of services that are gone."""
        for service_id, tasks in self._tasks.items():
            if service_id not in service_ids:
                self._remove.extend(tasks)

    def keep(self, service: ServiceRecord) -> None:
        """Decide which tasks of a service stay, and take the surplus away."""
        kept = self._kept[service.id] = _Kept()
        for task in self._tasks.get(service.id, []):
            node = self._nodes.get(task.node_id)
            if node is None or not self._may_stay(service, node, task):
                self._remove.append(task)
                continue
            # A global task has nowhere else to go: it waits for its node.
            down = self._state(node) is NodeState.DOWN and service.spec.replicas is not None
            (kept.stranded if down else kept.steady).append(task)
            self._occupy(service, node.id)
        if service.spec.replicas is not None:
            self._shed(service, kept, service.spec.replicas)

    def add(self, service: ServiceRecord) -> None:
        """Place what a service lacks."""
        kept = self._kept[service.id]
        candidates = self._candidates(service)
        replicas = service.spec.replicas
        if replicas is None:
            for node in candidates:
                self._place(service, node, "global: the node fits")
            return
        lacking = replicas - len(kept.steady)
        chosen = sorted(candidates, key=lambda n: (self._load[n.id], n.id))[: max(lacking, 0)]
        for node in chosen:
            self._place(service, node, "the least loaded node that fits")
        replaced = len(kept.stranded) - (lacking - len(chosen))
        for task in kept.stranded[: max(replaced, 0)]:
            self._drop(service, task)
        missing = lacking - len(chosen)
        if missing > 0:
            self._skipped.append(Skipped(ServiceId(service.id), _shortage(replicas, missing)))

    def _may_stay(self, service: ServiceRecord, node: NodeRecord, task: TaskRecord) -> bool:
        return (
            task.state is TaskState.RUNNING
            and _fits(service, node)
            and self._uid_free(service, node.id)
        )

    def _shed(self, service: ServiceRecord, kept: _Kept, replicas: int) -> None:
        """Take away what is over the number of replicas: down nodes first, then the fullest."""
        while len(kept.steady) + len(kept.stranded) > replicas:
            pool = kept.stranded or kept.steady
            task = max(pool, key=lambda t: (self._load[t.node_id], t.id))
            pool.remove(task)
            self._drop(service, task)

    def _candidates(self, service: ServiceRecord) -> list[NodeRecord]:
        """Return the nodes that may be given a new task of a service."""
        here = {task.node_id for task in self._tasks.get(service.id, [])}
        removed = {t.node_id for t in self._remove if t.service_id == service.id}
        return [
            node
            for node in self._nodes.values()
            if node.id not in here | removed
            and self._state(node) is NodeState.READY
            and _fits(service, node)
            and self._uid_free(service, node.id)
        ]

    def _place(self, service: ServiceRecord, node: NodeRecord, reason: str) -> None:
        service_id, node_id = ServiceId(service.id), NodeId(node.id)
        self._occupy(service, node.id)
        self._create.append(
            TaskRecord(
                id=task_id(service_id, node_id),
                service_id=service_id,
                node_id=node_id,
                state=TaskState.RUNNING,
                created_at=self._now_s,
                reason=reason,
            )
        )

    def _drop(self, service: ServiceRecord, task: TaskRecord) -> None:
        self._remove.append(task)
        self._load[task.node_id] -= 1
        for uid in self._uids_of(service):
            if self._uids.get((task.node_id, uid)) == service.id:
                del self._uids[task.node_id, uid]

    def _occupy(self, service: ServiceRecord, node_id: str) -> None:
        self._load[node_id] += 1
        for uid in self._uids_of(service):
            self._uids.setdefault((node_id, uid), service.id)

    def _uid_free(self, service: ServiceRecord, node_id: str) -> bool:
        if node_id in self._shared_uids:
            return True
        return all(
            self._uids.get((node_id, uid), service.id) == service.id
            for uid in self._uids_of(service)
        )

    def _uids_of(self, service: ServiceRecord) -> set[int]:
        """Return the uids a task may run under: also the one before, until an update is out."""
        return {service.spec.uid, *self._held_uids.get(service.id, ())}

    def _state(self, node: NodeRecord) -> NodeState:
        return self._states.get(node.id, NodeState.UNKNOWN)


def _fits(service: ServiceRecord, node: NodeRecord) -> bool:
    """Return whether a node may have a service at all."""
    return (
        node.availability is Availability.ACTIVE
        and node.revoked_at is None
        and satisfies(node, service.spec.constraints)
    )


def _shortage(replicas: int, missing: int) -> str:
    return (
        f"{missing} of {replicas} replicas wait for a node: none is ready, fits the constraints, "
        "is without this service, and has its uid free"
    )
