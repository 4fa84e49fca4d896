"""Which node runs which service: the pure half of placement.

Rules, in this order. A task stays where it is while its node may keep it: nothing is moved to make
the spread nicer. A task leaves a node that is drained, removed, or no longer fits the constraints.
A task on a node that is down is replaced elsewhere, and kept if there is no elsewhere: the node
comes back with it. One that is unwell moves too, but only to where that was not tried before. New
tasks go to nodes with a session, as the preferences say, then the least loaded first. Two services
of one uid never share a node, because a uid is what separates them there; the older service wins.
The same input gives the same output, on any manager. Source: DESIGN 6.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from cluster.control.node_fitness import unfit
from cluster.control.spread import best_first, worst_first
from cluster.control.task_history import TRIED, Ending
from cluster.protocol.ids import NodeId, ServiceId
from cluster.store.records import (
    EndedState,
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
    endings: tuple[Ending, ...] = ()
    """Why each of `remove` goes, in its order."""

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
    *,
    held_uids: Mapping[str, Collection[int]] | None = None,
    unwell: Mapping[str, str] | None = None,
    avoided: Mapping[str, Collection[str]] | None = None,
) -> Changes:
    """Return the changes that bring the tasks to where they belong.

    `states`: what to take each node for, by id; a node without an entry is unknown. `shared_uids`:
    ids of nodes that mount into given volumes, where one uid may serve several services.
    `held_uids`: uids of former specs that tasks of a service still run under, by its id. `unwell`:
    tasks that another node is to be tried for, by id, and why. `avoided`: nodes where a service was
    unwell, by its id.
    """
    plan = _Plan(nodes, states, tasks, now_s, shared_uids, held_uids or {})
    plan.heed(unwell or {}, avoided or {})
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
    unwell: list[TaskRecord] = field(default_factory=list)
    left: list[Ending] = field(default_factory=list)
    """Those it lost, for which others come."""

    @property
    def all(self) -> list[TaskRecord]:
        """Return every task that is kept."""
        return [*self.steady, *self.stranded, *self.unwell]


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
        self._endings: list[Ending] = []
        self._unwell: Mapping[str, str] = {}
        self._avoided: Mapping[str, Collection[str]] = {}
        self._skipped: list[Skipped] = []

    def changes(self) -> Changes:
        """Return what was decided."""
        remove = tuple(ending.task for ending in self._endings)
        return Changes(
            tuple(self._create), remove, tuple(self._skipped), endings=tuple(self._endings)
        )

    def heed(self, unwell: Mapping[str, str], avoided: Mapping[str, Collection[str]]) -> None:
        """Take in what services' own checks say; see `place`."""
        self._unwell, self._avoided = unwell, avoided

    def remove_orphans(self, service_ids: Collection[str]) -> None:
        """Remove the tasks of services that are gone."""
        for service_id, tasks in self._tasks.items():
            if service_id not in service_ids:
                self._endings.extend(self._ending(task, "its service is gone") for task in tasks)

    def keep(self, service: ServiceRecord) -> None:
        """Decide which tasks of a service stay, and take the surplus away."""
        kept = self._kept[service.id] = _Kept()
        for task in self._tasks.get(service.id, []):
            node = self._nodes.get(task.node_id)
            problem = unfit(service, node) or self._hindrance(service, task)
            if node is None or problem:
                self._end(kept, self._ending(task, problem))
                continue
            self._sort_in(kept, service, node, task)
            self._occupy(service, node.id)
        if service.spec.replicas is not None:
            self._shed(service, kept, service.spec.replicas)

    def add(self, service: ServiceRecord) -> None:
        """Place what a service lacks."""
        kept = self._kept[service.id]
        replicas = service.spec.replicas
        steady = len(kept.steady) + len(kept.unwell)
        if replicas is not None and steady >= replicas and not (kept.stranded or kept.unwell):
            return  # as nearly all: looking at every node for every service would be their product
        candidates = self._candidates(service)
        if replicas is None:
            for node in candidates:
                self._place(service, node, "global: the node fits")
            return
        lacking = max(replicas - steady, 0)
        chosen = self._choose(service, kept, candidates, lacking)
        missing = lacking - len(chosen)
        for task in kept.stranded[: max(len(kept.stranded) - missing, 0)]:
            reason = f"node {self._nodes[task.node_id].name} is down"
            self._drop(service, kept, self._ending(task, reason))
        for number, node in enumerate(chosen):
            self._place(service, node, self._why_here(service, kept, number))
        if missing > 0:
            self._skipped.append(Skipped(ServiceId(service.id), _shortage(replicas, missing)))
        elif kept.unwell:
            taken = {node.id for node in chosen}
            self._relieve(service, kept, [node for node in candidates if node.id not in taken])

    def _hindrance(self, service: ServiceRecord, task: TaskRecord) -> str:
        """Return what else than its node's state ends a task."""
        if task.state is not TaskState.RUNNING:
            return "it was shut down"
        if not self._uid_free(service, task.node_id):
            return "an older service of its uid has the node"
        return ""

    def _sort_in(
        self, kept: _Kept, service: ServiceRecord, node: NodeRecord, task: TaskRecord
    ) -> None:
        # A global task has nowhere else to go: it waits for its node.
        movable = service.spec.replicas is not None
        if movable and self._state(node) is NodeState.DOWN:
            kept.stranded.append(task)
        elif movable and task.id in self._unwell and self._state(node) is NodeState.READY:
            kept.unwell.append(task)
        else:
            kept.steady.append(task)

    def _choose(
        self, service: ServiceRecord, kept: _Kept, candidates: list[NodeRecord], number: int
    ) -> list[NodeRecord]:
        """Return at most `number` nodes for new tasks."""
        avoided = self._avoided.get(service.id, ())
        held = [self._nodes[task.node_id] for task in (*kept.steady, *kept.unwell)]
        chosen = list[NodeRecord]()
        # Where it was unwell is better than nowhere.
        for tried in (False, True):
            if len(chosen) >= number:
                break
            pool = [node for node in candidates if (node.id in avoided) is tried]
            order = best_first(pool, [*held, *chosen], service.spec.placement_prefs, self._rank)
            chosen.extend(islice(order, number - len(chosen)))
        return chosen

    def _relieve(
        self, service: ServiceRecord, kept: _Kept, candidates: Iterable[NodeRecord]
    ) -> None:
        """Move one unwell task to a node that was not tried lately; one at a time is lost."""
        avoided = self._avoided.get(service.id, ())
        untried = [node for node in candidates if node.id not in avoided]
        # Failing wherever it is tried, it is broken itself, and its secrets would tour the cluster.
        if not untried or len(avoided) >= TRIED:
            return
        task = kept.unwell[0]
        held = [self._nodes[t.node_id] for t in (*kept.steady, *kept.unwell[1:])]
        node = next(best_first(untried, held, service.spec.placement_prefs, self._rank))
        ending = self._ending(task, self._unwell[task.id], unwell=True)
        self._drop(service, kept, ending)
        self._place(service, node, f"in place of {self._name(task)}: {ending.reason}")

    def _rank(self, node: NodeRecord) -> tuple[int, str]:
        return self._load[node.id], node.id

    def _why_here(self, service: ServiceRecord, kept: _Kept, number: int) -> str:
        """Return why the service's new task of this number is placed."""
        if number < len(kept.left):
            ending = kept.left[number]
            return f"in place of {self._name(ending.task)}: {ending.reason}"
        if service.spec.placement_prefs:
            return "the preferences lead to this node"
        return "the least loaded node that fits"

    def _name(self, task: TaskRecord) -> str:
        node = self._nodes.get(task.node_id)
        return node.name if node is not None else task.node_id

    def _shed(self, service: ServiceRecord, kept: _Kept, replicas: int) -> None:
        """Take away what is over the number of replicas: what is down, then unwell, goes first."""
        for pool in (kept.stranded, kept.unwell, kept.steady):
            surplus = len(kept.all) - replicas
            if surplus <= 0:
                return
            by_node = {str(task.node_id): task for task in pool}
            held = [self._nodes[task.node_id] for task in kept.all]
            nodes = [self._nodes[node_id] for node_id in by_node]
            order = worst_first(nodes, held, service.spec.placement_prefs, self._rank)
            gone = [by_node[node.id] for node in islice(order, surplus)]
            ids = {task.id for task in gone}
            pool[:] = [task for task in pool if task.id not in ids]
            for task in gone:
                ending = self._ending(task, "the service has fewer replicas now")
                self._drop(service, kept, ending)
            kept.left.clear()

    def _candidates(self, service: ServiceRecord) -> list[NodeRecord]:
        """Return the nodes that may be given a new task of a service."""
        here = {task.node_id for task in self._tasks.get(service.id, [])}
        return [
            node
            for node in self._nodes.values()
            if node.id not in here
            and self._state(node) is NodeState.READY
            and not unfit(service, node)
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

    def _ending(self, task: TaskRecord, reason: str, *, unwell: bool = False) -> Ending:
        ready = self._states.get(task.node_id) is NodeState.READY
        state = EndedState.SHUTDOWN if ready else EndedState.ORPHANED
        return Ending(task, reason, state, unwell=unwell)

    def _end(self, kept: _Kept, ending: Ending) -> None:
        self._endings.append(ending)
        kept.left.append(ending)

    def _drop(self, service: ServiceRecord, kept: _Kept, ending: Ending) -> None:
        task = ending.task
        self._end(kept, ending)
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


def _shortage(replicas: int, missing: int) -> str:
    return (
        f"{missing} of {replicas} replicas wait for a node: none is ready, fits the constraints, "
        "is without this service, and has its uid free"
    )
