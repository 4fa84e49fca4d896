"""Assignments against a naive model: what a running task's service refers to, and nothing else."""

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.dispatcher.assignments import assignments_of, difference, versions_of
from cluster.protocol.ids import NodeId, SecretId, ServiceId, VersionNumber
from cluster.store.records import (
    HeldSpec,
    SecretRecord,
    SecretReference,
    SecretVersion,
    ServiceRecord,
    ServiceSpec,
    TaskRecord,
    TaskState,
    VersionState,
    task_id,
)

SECRETS, SERVICES, NODES = ("s1", "s2", "s3"), ("a", "b", "c"), ("n1", "n2")
HERE = NodeId("n1")


@dataclass(frozen=True)
class World:
    """A handful of records, and the reader that assignments take."""

    tasks: tuple[TaskRecord, ...]
    services: dict[str, ServiceRecord]
    secrets: dict[str, SecretRecord]

    def tasks_of_node(self, node_id: NodeId) -> Iterable[TaskRecord]:
        return [task for task in self.tasks if task.node_id == node_id]

    def service(self, service_id: ServiceId) -> ServiceRecord | None:
        return self.services.get(service_id)

    def secret(self, secret_id: SecretId) -> SecretRecord | None:
        return self.secrets.get(secret_id)

    def held_spec(self, task: TaskRecord) -> HeldSpec | None:
        return None

    def held_version(self, task: TaskRecord, secret_id: SecretId) -> VersionNumber | None:
        return None


@st.composite
def secrets(draw: st.DrawFn, name: str) -> SecretRecord:
    others = draw(
        st.lists(st.sampled_from([VersionState.ACTIVE, VersionState.RETIRED]), max_size=3)
    )
    states = [*others, VersionState.PRIMARY]
    return SecretRecord(
        id=name,
        name=f"name-{name}",
        versions=tuple(
            SecretVersion(
                VersionNumber(number),
                state,
                1,
                0.0,
                "test",
                left_turn=0 if state is VersionState.PRIMARY else number,
            )
            for number, state in enumerate(states, 1)
        ),
        next_number=len(states) + 1,
        created_at=0.0,
        updated_at=0.0,
    )


@st.composite
def services(draw: st.DrawFn, name: str) -> ServiceRecord:
    one = st.tuples(st.sampled_from(SECRETS), st.integers(0, 5), st.booleans())
    wanted = draw(st.lists(one, max_size=4))
    references = tuple(
        SecretReference(
            secret_id=SecretId(secret),
            source=secret,
            target=f"file-{position}",
            version=VersionNumber(number) if number else None,
            previous=previous and not number,
        )
        for position, (secret, number, previous) in enumerate(wanted)
    )
    spec = ServiceSpec(references=references, uid=draw(st.integers(1, 3)))
    return ServiceRecord(
        id=name,
        name=f"name-{name}",
        spec=spec,
        previous_spec=ServiceSpec(references=(SecretReference(SecretId("s3"), "s3", "old"),)),
        spec_number=draw(st.integers(1, 2)),
        created_at=0.0,
        updated_at=0.0,
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    pairs = draw(st.sets(st.tuples(st.sampled_from(SERVICES), st.sampled_from(NODES))))
    tasks = tuple(
        TaskRecord(
            id=task_id(ServiceId(service), NodeId(node)),
            service_id=ServiceId(service),
            node_id=NodeId(node),
            state=draw(st.sampled_from(TaskState)),
            created_at=0.0,
        )
        for service, node in sorted(pairs)
    )
    there = draw(st.sets(st.sampled_from(SERVICES)))
    kept = draw(st.sets(st.sampled_from(SECRETS)))
    return World(
        tasks,
        {name: draw(services(name)) for name in sorted(there)},
        {name: draw(secrets(name)) for name in sorted(kept)},
    )


def naive(world: World, node: str) -> set[tuple[str, str, str, int]]:
    """Return (service, target, secret, version) for every file a node should have."""
    files: set[tuple[str, str, str, int]] = set()
    for task in world.tasks:
        if task.node_id != node or task.state.value != "running":
            continue
        if task.service_id not in world.services:
            continue
        for reference in world.services[task.service_id].spec.references:
            if reference.secret_id not in world.secrets:
                continue
            versions = world.secrets[reference.secret_id].versions
            before = versions[-2] if len(versions) > 1 else None
            if reference.previous and before is not None and before.state.value == "active":
                target = f"{reference.target}.previous"
                files.add((task.service_id, target, reference.secret_id, before.number))
            for version in versions:
                follows = reference.version is None and version.state.value == "primary"
                pinned = reference.version == version.number and version.state.value != "retired"
                if follows or pinned:
                    files.add(
                        (task.service_id, reference.target, reference.secret_id, version.number)
                    )
    return files


@pytest.mark.threat("T-05")
@given(worlds())
def test_assignments_match_naive_model(world: World) -> None:
    assigned = assignments_of(world, HERE)
    files = {
        (key, file.target, file.secret_id, file.version)
        for key, assignment in assigned.items()
        for file in assignment.files
    }
    assert files == naive(world, HERE)
    running = {t.service_id for t in world.tasks if t.node_id == HERE and t.state == "running"}
    assert set(assigned) == running & set(world.services)


@given(worlds())
def test_assignment_says_whom_it_is_for(world: World) -> None:
    for key, assignment in assignments_of(world, HERE).items():
        service = world.services[key]
        assert (assignment.name, assignment.uid) == (service.name, service.spec.uid)
        assert assignment.spec_number == service.spec_number
        assert {(one.secret_id, one.version) for one in versions_of(assignment)} == {
            (file.secret_id, file.version) for file in assignment.files
        }


@given(worlds(), worlds())
def test_difference_leads_from_what_was_sent_to_what_is_desired(before: World, now: World) -> None:
    sent, desired = assignments_of(before, HERE), assignments_of(now, HERE)
    change = difference(sent, desired)
    applied = {key: value for key, value in sent.items() if key not in change.removed}
    applied |= {assignment.service_id: assignment for assignment in change.changed}
    assert applied == desired
    assert bool(change) == (sent != desired)
    assert not any(sent.get(one.service_id) == one for one in change.changed)
    assert set(change.removed) <= set(sent)
