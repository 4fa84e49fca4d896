"""Placement preferences, for all clusters: even where there is room, and never at a task's cost."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.control.placement import Changes, place
from cluster.control.spread import best_first, worst_first
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


# --- the same as looking at everything again for each task ----------------------------------------

Rank = Callable[[NodeRecord], tuple[int, str]]


def plain(
    choose: Callable[..., Any],
    candidates: Sequence[NodeRecord],
    held: Sequence[NodeRecord],
    prefs: Sequence[str],
    rank: Rank,
) -> NodeRecord:
    """Return the next node by ranking everything: `choose` is min or max."""
    for pref in prefs:
        label = pref.removeprefix("spread=node.labels.")
        counts = Counter(n.labels.get(label, "") for n in held)
        groups: dict[str, list[NodeRecord]] = {}
        for one in candidates:
            groups.setdefault(one.labels.get(label, ""), []).append(one)
        keys = {v: (counts[v], choose(map(rank, groups[v])), v) for v in groups}
        value = choose(groups, key=keys.__getitem__)
        candidates, held = groups[value], [n for n in held if n.labels.get(label, "") == value]
    found: NodeRecord = choose(candidates, key=rank)
    return found


def plain_best(
    left: Sequence[NodeRecord], held: Sequence[NodeRecord], prefs: Sequence[str], rank: Rank
) -> NodeRecord:
    return plain(min, left, held, prefs, rank)


def plain_worst(
    left: Sequence[NodeRecord], held: Sequence[NodeRecord], prefs: Sequence[str], rank: Rank
) -> NodeRecord:
    return plain(max, left, held, prefs, rank)


some_prefs = st.sampled_from([(), (ZONE,), (RACK,), (ZONE, RACK), (RACK, ZONE)])
loads = st.lists(st.integers(0, 3), min_size=9, max_size=9)
numbers = st.sets(st.integers(0, 8))


@given(clusters(), some_prefs, loads, numbers, st.integers(0, 9))
def test_nodes_are_taken_in_the_order_of_ranking_anew_each_time(
    nodes: list[NodeRecord], prefs: tuple[str, ...], load: list[int], where: set[int], many: int
) -> None:
    """Tasks are held also on nodes that are no candidates, and of values that no candidate has."""

    def rank(one: NodeRecord) -> tuple[int, str]:
        return load[int(one.id[1:])], one.id

    held = [n for n in nodes if int(n.id[1:]) in where]
    rest = [n for n in nodes if n not in held]
    expected, left, now_held = list[NodeRecord](), list(rest), list(held)
    for _ in rest:
        chosen = plain_best(left, now_held, prefs, rank)
        left.remove(chosen)
        now_held.append(chosen)
        expected.append(chosen)
    assert list(best_first(rest, held, prefs, rank)) == expected
    expected, pool, now_held = [], held[:many], list(held)
    for _ in held[:many]:
        chosen = plain_worst(pool, now_held, prefs, rank)
        pool.remove(chosen)
        now_held.remove(chosen)
        expected.append(chosen)
    assert list(worst_first(held[:many], held, prefs, rank)) == expected


@given(clusters(), some_prefs, loads, numbers, numbers, st.integers(0, 9))
def test_placement_is_that_of_ranking_anew_for_each_task(
    nodes: list[NodeRecord],
    prefs: tuple[str, ...],
    load: list[int],
    where: set[int],
    shunned: set[int],
    replicas: int,
) -> None:
    """Where a service was unwell comes last, whatever its load and the preferences."""
    here = [task(n.id) for n in nodes if int(n.id[1:]) in where]
    loading = [task(n.id, f"o{o}") for n in nodes for o in range(load[int(n.id[1:])])]
    tasks = [*here, *loading]
    has = Counter(t.service_id for t in loading)
    # Older, and complete: what they hold is the load, and their own placement changes nothing.
    others = [service(has[ServiceId(f"o{n}")], name=f"o{n}", uid=n + 1) for n in range(3)]
    states = {n.id: NodeState.READY for n in nodes}
    asked = service(replicas, *prefs, uid=9)
    found = place(
        [asked, *others], nodes, states, tasks, 9.0, avoided={"s": {f"n{n}" for n in shunned}}
    )

    def rank(one: NodeRecord) -> tuple[int, str]:
        return load[int(one.id[1:])] + (int(one.id[1:]) in where), one.id

    held = [n for n in nodes if int(n.id[1:]) in where]
    expected, left = list[str](), [n for n in nodes if n not in held]
    gone, pool = list[str](), list(held)
    while left and len(held) < replicas:
        fresh = [n for n in left if int(n.id[1:]) not in shunned] or left
        chosen = plain_best(fresh, held, prefs, rank)
        left.remove(chosen)
        held.append(chosen)
        expected.append(chosen.id)
    while len(held) > replicas:
        chosen = plain_worst(pool, held, prefs, rank)
        pool.remove(chosen)
        held.remove(chosen)
        gone.append(chosen.id)
    assert [t.node_id for t in found.create if t.service_id == "s"] == expected
    assert [t.node_id for t in found.remove if t.service_id == "s"] == gone


@given(
    clusters(),
    some_prefs,
    st.lists(st.sampled_from("duw"), min_size=9, max_size=9),
    st.integers(0, 9),
)
def test_surplus_is_that_of_ranking_anew_for_each_task(
    nodes: list[NodeRecord], prefs: tuple[str, ...], kinds: list[str], replicas: int
) -> None:
    """What is down goes first, then what is unwell; all of it counts for the evenness."""
    tasks = [task(n.id) for n in nodes]
    of = {n.id: kinds[int(n.id[1:])] for n in nodes}
    states = {i: NodeState.DOWN if kind == "d" else NodeState.READY for i, kind in of.items()}
    unwell = {t.id: "unhealthy" for t in tasks if of[t.node_id] == "u"}
    found = place([service(replicas, *prefs)], nodes, states, tasks, 9.0, unwell=unwell)
    gone, held = list[str](), list(nodes)
    while len(held) > replicas:
        pool = next(p for k in "duw" if (p := [n for n in held if of[n.id] == k]))
        chosen = plain_worst(pool, held, prefs, lambda n: (1, n.id))
        held.remove(chosen)
        gone.append(chosen.id)
    shed = [e.task.node_id for e in found.endings if e.reason.startswith("the service has")]
    assert shed == gone
