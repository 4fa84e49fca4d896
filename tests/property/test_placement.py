"""Placement, for all clusters: against the rules, not against itself."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cluster.control.constraints import satisfies
from cluster.control.placement import Changes, place
from cluster.protocol.ids import NodeId, ServiceId
from cluster.store.records import (
    Availability,
    NodeRecord,
    NodeState,
    ServiceRecord,
    ServiceSpec,
    TaskRecord,
    TaskState,
    task_id,
)


@dataclass(frozen=True)
class World:
    """What placement sees."""

    services: list[ServiceRecord]
    nodes: list[NodeRecord]
    states: dict[str, NodeState]
    tasks: list[TaskRecord]
    shared_uids: frozenset[str]

    def place(self) -> Changes:
        return place(self.services, self.nodes, self.states, self.tasks, 9.0, self.shared_uids)

    def after(self, changes: Changes) -> "World":
        gone = {task.id for task in changes.remove}
        tasks = [task for task in self.tasks if task.id not in gone] + list(changes.create)
        return World(self.services, self.nodes, self.states, tasks, self.shared_uids)

    def node(self, node_id: str) -> NodeRecord | None:
        return next((node for node in self.nodes if node.id == node_id), None)

    def fits(self, service: ServiceRecord, node: NodeRecord) -> bool:
        return (
            node.availability is Availability.ACTIVE
            and node.revoked_at is None
            and satisfies(node, service.spec.constraints)
        )


def _node(draw: Any, number: int) -> NodeRecord:  # noqa: ANN401  # Hypothesis's own
    return NodeRecord(
        id=f"n{number}",
        name=f"node{number}",
        labels=draw(st.sampled_from([{}, {"zone": "a"}, {"zone": "b"}])),
        availability=draw(st.sampled_from([Availability.ACTIVE] * 3 + [Availability.DRAIN])),
        revoked_at=draw(st.sampled_from([None, None, None, None, 1.0])),
        created_at=0.0,
    )


def _service(draw: Any, number: int) -> ServiceRecord:  # noqa: ANN401  # Hypothesis's own
    spec = ServiceSpec(
        replicas=draw(st.one_of(st.none(), st.integers(0, 4))),
        constraints=draw(st.sampled_from([(), ("node.labels.zone==a",), ("node.labels.zone!=a",)])),
        uid=draw(st.integers(1, 3)),
    )
    created_at = float(draw(st.integers(0, 2)))
    return ServiceRecord(
        id=f"s{number}", name=f"s{number}", spec=spec, created_at=created_at, updated_at=0.0
    )


@st.composite
def worlds(draw: Any) -> World:  # noqa: ANN401  # Hypothesis's own
    nodes = [_node(draw, number) for number in range(draw(st.integers(0, 5)))]
    services = [_service(draw, number) for number in range(draw(st.integers(0, 4)))]
    states = {
        node.id: draw(st.sampled_from([NodeState.READY] * 3 + [NodeState.UNKNOWN, NodeState.DOWN]))
        for node in nodes
    }
    service_ids = [service.id for service in services] + ["gone"]
    node_ids = [node.id for node in nodes] + ["lost"]
    pairs = draw(
        st.sets(st.tuples(st.sampled_from(service_ids), st.sampled_from(node_ids)), max_size=10)
    )
    tasks = [_task(*pair) for pair in sorted(pairs)]
    shared = frozenset(draw(st.sets(st.sampled_from(node_ids), max_size=2)))
    return World(services, nodes, states, tasks, shared)


def _task(service_id: str, node_id: str) -> TaskRecord:
    return TaskRecord(
        id=task_id(ServiceId(service_id), NodeId(node_id)),
        service_id=ServiceId(service_id),
        node_id=NodeId(node_id),
        state=TaskState.RUNNING,
        created_at=0.0,
    )


@given(worlds())
def test_every_task_has_a_service_and_a_node_that_fits(world: World) -> None:
    after = world.after(world.place())
    services = {service.id: service for service in world.services}
    for task in after.tasks:
        node = world.node(task.node_id)
        assert node is not None
        assert world.fits(services[task.service_id], node)


@given(worlds())
def test_new_tasks_go_to_nodes_with_a_session(world: World) -> None:
    for task in world.place().create:
        assert world.states[task.node_id] is NodeState.READY


@given(worlds())
def test_two_services_of_one_uid_never_share_a_node(world: World) -> None:
    after = world.after(world.place())
    uids = {service.id: service.spec.uid for service in world.services}
    used = Counter(
        (task.node_id, uids[task.service_id])
        for task in after.tasks
        if task.node_id not in world.shared_uids
    )
    assert max(used.values(), default=1) == 1


@given(worlds())
def test_replicas_are_never_exceeded_and_shortages_are_told(world: World) -> None:
    changes = world.place()
    after = world.after(changes)
    for service in world.services:
        here = [task for task in after.tasks if task.service_id == service.id]
        replicas = service.spec.replicas
        if replicas is None:
            continue
        assert len(here) <= replicas
        up = [task for task in here if world.states[task.node_id] is not NodeState.DOWN]
        told = {skipped.service_id for skipped in changes.skipped}
        assert (len(up) < replicas) is (service.id in told)


@given(worlds())
def test_a_shortage_means_that_no_node_was_free(world: World) -> None:
    changes = world.place()
    after = world.after(changes)
    uids = {service.id: service.spec.uid for service in world.services}
    moved = {task.id for task in changes.remove}
    for service in world.services:
        if service.id not in {skipped.service_id for skipped in changes.skipped}:
            continue
        for node in world.nodes:
            if not world.fits(service, node) or world.states[node.id] is not NodeState.READY:
                continue
            there = [task for task in after.tasks if task.node_id == node.id]
            own = task_id(ServiceId(service.id), NodeId(node.id))
            taken = node.id not in world.shared_uids and any(
                uids[task.service_id] == service.spec.uid for task in there
            )
            assert taken or own in {task.id for task in there} or own in moved


@given(worlds())
def test_placement_settles_at_once_and_moves_nothing_afterwards(world: World) -> None:
    after = world.after(world.place())
    again = after.place()
    settled = after.after(again)
    once_more = settled.place()
    assert (once_more.create, once_more.remove) == ((), ())


@given(worlds())
def test_a_task_that_may_stay_stays(world: World) -> None:
    """Unless its service has too many, its node is down, or an older service has its uid."""
    removed = {task.id for task in world.place().remove}
    services = {service.id: service for service in world.services}
    for task in world.tasks:
        service, node = services.get(task.service_id), world.node(task.node_id)
        if service is None or node is None or not world.fits(service, node):
            assert task.id in removed
            continue
        mine = [other for other in world.tasks if other.service_id == service.id]
        fitting = [o for o in mine if (n := world.node(o.node_id)) and world.fits(service, n)]
        few = service.spec.replicas is None or len(fitting) <= service.spec.replicas
        alone = len([t for t in world.tasks if t.node_id == node.id]) == 1
        if few and alone and world.states[node.id] is not NodeState.DOWN:
            assert task.id not in removed


@given(worlds(), st.randoms())
def test_the_order_of_the_input_does_not_matter(world: World, random: Any) -> None:  # noqa: ANN401  # Hypothesis's own
    shuffled = [list(items) for items in (world.services, world.nodes, world.tasks)]
    for items in shuffled:
        random.shuffle(items)
    services, nodes, tasks = cast("tuple[Any, Any, Any]", shuffled)
    other = World(services, nodes, world.states, tasks, world.shared_uids)
    one, two = world.place(), other.place()
    assert one.create == two.create
    assert {task.id for task in one.remove} == {task.id for task in two.remove}


@given(worlds())
def test_global_services_are_on_every_node_that_is_free(world: World) -> None:
    after = world.after(world.place())
    uids = {service.id: service.spec.uid for service in world.services}
    before = {task.id for task in world.tasks}
    for service in world.services:
        if service.spec.replicas is not None:
            continue
        for node in world.nodes:
            own = task_id(ServiceId(service.id), NodeId(node.id))
            if not world.fits(service, node) or world.states[node.id] is not NodeState.READY:
                continue
            there = [task for task in after.tasks if task.node_id == node.id]
            taken = any(uids[t.service_id] == service.spec.uid for t in there)
            assert own in {task.id for task in there} or taken or own in before


def test_a_stranded_task_is_replaced_where_possible_and_else_kept() -> None:
    nodes = [NodeRecord(id=i, name=i, created_at=0.0) for i in ("n1", "n2")]
    service = ServiceRecord(
        id="s", name="s", spec=ServiceSpec(replicas=1), created_at=0.0, updated_at=0.0
    )
    states = {"n1": NodeState.DOWN, "n2": NodeState.UNKNOWN}
    world = World([service], nodes, states, [_task("s", "n1")], frozenset())
    kept = world.place()
    assert (kept.create, kept.remove) == ((), ())
    states["n2"] = NodeState.READY
    moved = world.place()
    assert [task.node_id for task in moved.create] == ["n2"]
    assert [task.node_id for task in moved.remove] == ["n1"]


def test_replicas_spread_over_the_least_loaded_nodes() -> None:
    nodes = [NodeRecord(id=f"n{i}", name=f"n{i}", created_at=0.0) for i in range(3)]
    services = [
        ServiceRecord(
            id=f"s{i}",
            name=f"s{i}",
            spec=ServiceSpec(replicas=1, uid=i + 1),
            created_at=float(i),
            updated_at=0.0,
        )
        for i in range(6)
    ]
    states = {node.id: NodeState.READY for node in nodes}
    changes = World(services, nodes, states, [], frozenset()).place()
    assert set(Counter(task.node_id for task in changes.create).values()) == {2}
    assert msgspec.structs.asdict(changes.create[0])["reason"]
