"""Placement preferences, for all clusters: even where there is room, and never at a task's cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.control.placement import Changes, place
from cluster.protocol.ids import NodeId, ServiceId
from cluster.store.records import (
    NodeRecord,
    NodeState,
    ServiceRecord,
    ServiceSpec,
    TaskRecord,
    TaskState,
    task_id,
)

ZONE, RACK = "spread=node.labels.zone", "spread=node.labels.rack"


def node(number: int, **labels: str) -> NodeRecord:
    return NodeRecord(id=f"n{number}", name=f"n{number}", labels=labels, created_at=0.0)


def service(replicas: int, *prefs: str, uid: int = 1, name: str = "s") -> ServiceRecord:
    spec = ServiceSpec(replicas=replicas, placement_prefs=prefs, uid=uid)
    return ServiceRecord(id=name, name=name, spec=spec, created_at=float(uid), updated_at=0.0)


def task(node_id: str, name: str = "s") -> TaskRecord:
    service_id = ServiceId(name)
    return TaskRecord(
        id=task_id(service_id, NodeId(node_id)),
        service_id=service_id,
        node_id=NodeId(node_id),
        state=TaskState.RUNNING,
        created_at=0.0,
    )


def placed(
    services: Sequence[ServiceRecord], nodes: Sequence[NodeRecord], tasks: Sequence[TaskRecord] = ()
) -> Changes:
    return place(services, nodes, {n.id: NodeState.READY for n in nodes}, tasks, 9.0)


def after(tasks: Sequence[TaskRecord], changes: Changes, name: str = "s") -> set[str]:
    """Return the nodes where a service has tasks."""
    gone = {one.id for one in changes.remove}
    found = [*(one for one in tasks if one.id not in gone), *changes.create]
    return {one.node_id for one in found if one.service_id == name}


def by_value(nodes: Sequence[NodeRecord], ids: set[str], label: str) -> Counter[str]:
    return Counter(n.labels.get(label, "") for n in nodes if n.id in ids)


def is_even(held: Mapping[str, int], room: Mapping[str, int]) -> bool:
    """Return whether no group has two tasks more than one which has room for another."""
    with_room = [held.get(value, 0) for value in room if held.get(value, 0) < room[value]]
    return not with_room or max(held.values(), default=0) - min(with_room) <= 1


@st.composite
def clusters(draw: Any) -> list[NodeRecord]:  # noqa: ANN401  # Hypothesis's own
    labels = st.fixed_dictionaries(
        {}, optional={"zone": st.sampled_from("abc"), "rack": st.sampled_from("12")}
    )
    found = draw(st.lists(labels, min_size=1, max_size=9))
    return [node(number, **one) for number, one in enumerate(found)]


@given(clusters(), st.integers(0, 10))
def test_tasks_are_even_over_the_values_where_there_is_room(
    nodes: list[NodeRecord], replicas: int
) -> None:
    ids = after((), placed([service(replicas, ZONE)], nodes))
    assert len(ids) == min(replicas, len(nodes))
    room = by_value(nodes, {n.id for n in nodes}, "zone")
    assert is_even(by_value(nodes, ids, "zone"), room)


@given(clusters(), st.integers(0, 10))
def test_the_second_label_is_even_within_each_value_of_the_first(
    nodes: list[NodeRecord], replicas: int
) -> None:
    ids = after((), placed([service(replicas, ZONE, RACK)], nodes))
    zones = by_value(nodes, {n.id for n in nodes}, "zone")
    assert is_even(by_value(nodes, ids, "zone"), zones)
    for zone in zones:
        within = [n for n in nodes if n.labels.get("zone", "") == zone]
        room = by_value(within, {n.id for n in within}, "rack")
        assert is_even(by_value(within, ids, "rack"), room)


@given(clusters(), st.integers(0, 10), st.integers(0, 10))
def test_fewer_replicas_leave_it_even(nodes: list[NodeRecord], more: int, fewer: int) -> None:
    assume(fewer <= more)
    changes = placed([service(more, ZONE)], nodes)
    ids = after(changes.create, placed([service(fewer, ZONE)], nodes, changes.create))
    assert len(ids) == min(fewer, len(nodes))
    assert is_even(by_value(nodes, ids, "zone"), by_value(nodes, {n.id for n in nodes}, "zone"))


@given(clusters(), st.sets(st.integers(0, 8)))
def test_a_preference_moves_nothing(nodes: list[NodeRecord], where: set[int]) -> None:
    """However uneven it is: only what is placed anew follows it."""
    held = [task(n.id) for n in nodes if int(n.id[1:]) in where]
    changes = placed([service(len(held), ZONE, RACK)], nodes, held)
    assert (changes.create, changes.remove) == ((), ())


@given(clusters(), st.integers(0, 10))
def test_a_preference_keeps_no_task_from_a_node(nodes: list[NodeRecord], replicas: int) -> None:
    with_one, without = placed([service(replicas, ZONE)], nodes), placed([service(replicas)], nodes)
    assert len(with_one.create) == len(without.create)
    assert [s.reason for s in with_one.skipped] == [s.reason for s in without.skipped]


@given(clusters(), st.integers(1, 4), st.integers(1, 4))
def test_nodes_without_the_label_are_spread_over_by_load(
    nodes: list[NodeRecord], first: int, second: int
) -> None:
    """A preference on a label that no node has changes nothing at all."""
    bare = [msgspec.structs.replace(n, labels={}) for n in nodes]
    older = service(first, name="a", uid=1)
    plain = placed([older, service(second, name="b", uid=2)], bare)
    preferring = placed([older, service(second, ZONE, name="b", uid=2)], bare)
    assert after((), plain, "b") == after((), preferring, "b")


def test_nodes_without_the_label_are_one_group() -> None:
    nodes = [node(0), node(1), node(2), node(3, zone="a")]
    assert "n3" in after((), placed([service(2, ZONE)], nodes))


def test_within_a_group_the_least_loaded_node_is_taken() -> None:
    nodes = [node(0, zone="a"), node(1, zone="a"), node(2, zone="b")]
    older = service(1, name="old", uid=1)
    changes = placed([older, service(2, ZONE, uid=2)], nodes, [task("n0", "old")])
    assert after((), changes) == {"n1", "n2"}


def test_a_replacement_goes_where_the_least_tasks_are() -> None:
    nodes = [node(0, zone="a"), node(1, zone="a"), node(2, zone="b"), node(3, zone="b")]
    held = [task("n0"), task("n2")]
    states = {n.id: NodeState.READY for n in nodes} | {"n2": NodeState.DOWN}
    changes = place([service(2, ZONE)], nodes, states, held, 9.0)
    assert after(held, changes) == {"n0", "n3"}
    assert changes.create[0].reason == "in place of n2: node n2 is down"
