"""What the duties look at when nearly nothing asks for them: counts of work, not of time."""

import itertools
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import msgspec
import pytest

from cluster.control.expiry import expiring, next_warning
from cluster.control.placement import place
from cluster.control.versions import may_settle
from cluster.protocol.ids import NodeId, ServiceId, VersionNumber
from cluster.store.records import (
    NodeRecord,
    NodeState,
    RotationSchedule,
    SecretRecord,
    SecretVersion,
    ServiceRecord,
    ServiceSpec,
    TaskRecord,
    TaskState,
    VersionState,
    task_id,
)
from cluster.store.view import Stored, View
from tests.unit.control.lab import ControlLab


class CountedStates(Mapping[str, NodeState]):
    """Every node is ready; counts how often one is looked at."""

    def __init__(self, node_ids: list[str]) -> None:
        self._ids = node_ids
        self.looks = 0

    def __getitem__(self, key: str) -> NodeState:
        self.looks += 1
        return NodeState.READY

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)


@pytest.mark.parametrize("services", [20, 40])
def test_services_that_stand_as_they_should_cost_no_look_at_every_node(services: int) -> None:
    nodes = [NodeRecord(id=f"n{n:03}", name=f"n{n}", created_at=0.0) for n in range(100)]
    records = [
        ServiceRecord(
            id=f"s{n:03}", name=f"s{n}", spec=ServiceSpec(replicas=2, uid=1_000 + n),
            created_at=0.0, updated_at=0.0,
        )
        for n in range(services)
    ]  # fmt: skip
    tasks = [
        TaskRecord(
            id=task_id(ServiceId(service.id), NodeId(node.id)), service_id=ServiceId(service.id),
            node_id=NodeId(node.id), state=TaskState.RUNNING, created_at=0.0,
        )
        for service in records for node in nodes[:2]
    ]  # fmt: skip
    states = CountedStates([node.id for node in nodes])
    changes = place(records, nodes, states, tasks, 1.0)
    assert (changes.create, changes.remove, changes.skipped) == ((), (), ())
    assert states.looks <= 2 * len(tasks)
    states.looks = 0
    place([*records, msgspec.structs.replace(records[0], id="new")], nodes, states, tasks, 1.0)
    assert states.looks >= len(nodes)


class CountedId(str):
    """A node's id that counts how often any is compared with another: ranking and searching."""

    __slots__ = ()
    compared = 0

    def __lt__(self, other: str) -> bool:
        CountedId.compared += 1
        return str.__lt__(self, other)

    def __gt__(self, other: str) -> bool:
        CountedId.compared += 1
        return str.__gt__(self, other)

    def __eq__(self, other: object) -> bool:
        CountedId.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


class CountedLabels(dict[str, str]):
    """A node's labels that count how often any is looked up."""

    looks = 0

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401  # as dict has it
        CountedLabels.looks += 1
        return super().get(key, default)


@pytest.mark.parametrize("labels", [0, 1, 2])
@pytest.mark.parametrize("before", [0, 150])
def test_many_replicas_cost_no_look_at_every_node_for_each(before: int, labels: int) -> None:
    """Neither where they are placed nor where they are taken away."""
    nodes = [
        NodeRecord(
            id=CountedId(f"n{n:03}"), name=f"n{n}", created_at=0.0,
            labels=CountedLabels({"l0": str(n % 60), "l1": str(n % 7)}),
        )
        for n in range(300)
    ]  # fmt: skip
    prefs = tuple(f"spread=node.labels.l{n}" for n in range(labels))
    spec = ServiceSpec(replicas=5 if before else 150, uid=7, placement_prefs=prefs)
    service = ServiceRecord(id="s", name="s", spec=spec, created_at=0.0, updated_at=0.0)
    tasks = [
        TaskRecord(
            id=task_id(ServiceId("s"), NodeId(node.id)), service_id=ServiceId("s"),
            node_id=NodeId(node.id), state=TaskState.RUNNING, created_at=0.0,
        )
        for node in nodes[:before]
    ]  # fmt: skip
    states = {node.id: NodeState.READY for node in nodes}
    CountedId.compared = CountedLabels.looks = 0
    changes = place([service], nodes, states, tasks, 1.0)
    assert (len(changes.create), len(changes.remove)) == ((0, 145) if before else (150, 0))
    # Sorting is about eight comparisons a node; looking at all of them for each is 22,000 at least.
    assert CountedId.compared < 30 * len(nodes)
    assert CountedLabels.looks <= 2 * labels * len(nodes)


class Lines:
    """Counts the lines of the control layer that are run, each turn of a loop anew."""

    def __init__(self) -> None:
        self.run = 0

    def _note(self, frame: FrameType, event: str, _: object) -> Any:  # noqa: ANN401  # a tracer
        if "/cluster/control/" not in frame.f_code.co_filename:
            return None
        self.run += event == "line"
        return self._note

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what runs in this thread meanwhile."""
        before = sys.gettrace()
        sys.settrace(self._note)
        try:
            yield
        finally:
            sys.settrace(before)


async def test_services_that_wait_cost_one_look_at_each(
    lab: ControlLab,
) -> None:
    """A service that no node may run waits, maybe for ever; so may hundreds."""
    await lab.join("n1")
    duty = lab.duty()
    looks: list[int] = []
    for number in range(120):
        await lab.service(f"waits-{number}", constraints=("node.name==none",))
        if number in {59, 119}:
            await lab.settle(duty)
            duty.look_again()
            lines = Lines()
            with lines.counting():
                await duty.round()
            looks.append(lines.run)
    few, many = looks
    assert few > 60, "a look at each is counted"
    assert many < 2.2 * few


def secrets() -> list[SecretRecord]:
    """Return secrets with versions in every combination of states, and some ends."""
    states = (VersionState.ACTIVE, VersionState.RETIRED)
    draw = random.Random(5)
    found: list[SecretRecord] = []
    for count in range(4):
        for chosen in itertools.product(states, repeat=count):
            for _ in range(4):
                versions = [
                    SecretVersion(
                        VersionNumber(number + 1), state, 1, 0.0, "test",
                        destroyed=state is VersionState.RETIRED and draw.random() < 0.3,
                        expires_at=draw.choice([None, 5.0]),
                    )
                    for number, state in enumerate([*chosen, VersionState.PRIMARY])
                ]  # fmt: skip
                found.append(
                    SecretRecord(
                        id=f"s{len(found)}", name=f"s{len(found)}", versions=tuple(versions),
                        next_number=len(versions) + 1, created_at=0.0, updated_at=0.0,
                        keep=draw.choice([0, 1, 2]),
                    )
                )  # fmt: skip
    return found


def test_the_secrets_that_time_may_change_are_those_that_ask_for_it() -> None:
    view = View(str.encode)
    known = secrets()
    for secret in known:
        view.put(Stored(secret, 1, 1))
    asks = {
        secret.id
        for secret in known
        if may_settle(secret)
        or next_warning([secret], 0.0) is not None
        or any(expiring([secret], 0.0))
    }
    assert {stored.record.id for stored in view.secrets_passing()} == asks
    assert 0 < len(asks) < len(known)


def test_a_secret_is_found_by_its_schedule_as_long_as_it_has_one() -> None:
    view = View(str.encode)
    secret = secrets()[0]
    view.put(Stored(secret, 1, 1))
    assert view.secrets_scheduled() == ()
    schedule = RotationSchedule(60.0, "hex")
    view.put(Stored(msgspec.structs.replace(secret, schedule=schedule), 2, 2))
    assert [stored.record.id for stored in view.secrets_scheduled()] == [secret.id]
    view.put(Stored(secret, 3, 3))
    assert view.secrets_scheduled() == ()
