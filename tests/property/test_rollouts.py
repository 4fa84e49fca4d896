"""Rollouts under every order of reports, deaths of nodes and waiting: groups stay groups.

The tasks of the model hold what `Holds` says they are to hold, as their nodes would be sent it, and
report it when the test says so.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from cluster.control.rollout_steps import step, turned_back
from cluster.control.rollouts import Facts
from cluster.protocol.ids import NodeId, SecretId, ServiceId, TaskId, VersionNumber
from cluster.store.holds import Holds
from cluster.store.records import (
    FailureAction,
    Health,
    MountedVersion,
    RolloutKind,
    RolloutRecord,
    RolloutState,
    RolloutTarget,
    SecretRecord,
    SecretReference,
    SecretVersion,
    ServiceRecord,
    ServiceSpec,
    TargetState,
    TaskRecord,
    TaskState,
    TaskStatusRecord,
    UpdatePolicy,
    VersionState,
    task_id,
)

SECRET, SERVICE = SecretId("secret"), ServiceId("service")
OLD, NEW = VersionNumber(1), VersionNumber(2)
MOST_STEPS = 400


def secret(primary: VersionNumber) -> SecretRecord:
    return SecretRecord(
        id=SECRET,
        name="db",
        versions=tuple(
            SecretVersion(
                number,
                VersionState.PRIMARY if number == primary else VersionState.ACTIVE,
                1,
                0.0,
                "test",
            )
            for number in (OLD, NEW)
        ),
        next_number=3,
        created_at=0.0,
        updated_at=0.0,
    )


@dataclass
class Fleet:
    """Nodes with a task each, and the rollout that changes them."""

    size: int
    policy: UpdatePolicy
    checked: bool
    now_s: float = 1000.0
    mounted: dict[NodeId, VersionNumber] = field(default_factory=dict)
    healthy: dict[NodeId, bool] = field(default_factory=dict)
    down: set[NodeId] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.nodes = [NodeId(f"n{number}") for number in range(self.size)]
        self.mounted = dict.fromkeys(self.nodes, OLD)
        self.healthy = dict.fromkeys(self.nodes, True)
        self.rollout = RolloutRecord(
            id="rollout",
            what=RolloutKind.ROTATE,
            name="db",
            secret_id=SECRET,
            version=NEW,
            targets=tuple(RolloutTarget(SERVICE, node) for node in self.nodes),
            started_at=self.now_s,
            started_by="test",
            policy=self.policy,
            before_version=OLD,
            canary_passed=self.policy.canary == 0,
        )
        reference = SecretReference(secret_id=SECRET, source="db", target="db")
        health = Health(process=True) if self.checked else None
        spec = ServiceSpec(references=(reference,), health=health, update=self.policy)
        self.service = ServiceRecord(
            id=SERVICE, name="app", spec=spec, created_at=0.0, updated_at=0.0
        )

    @property
    def primary(self) -> VersionNumber:
        return OLD if self.rollout.state in {ROLLING_BACK, ROLLED_BACK, FAILED_BACK} else NEW

    def task(self, node: NodeId) -> TaskRecord:
        return TaskRecord(
            id=task_id(SERVICE, node),
            service_id=SERVICE,
            node_id=node,
            state=TaskState.RUNNING,
            created_at=0.0,
        )

    def assigned(self, node: NodeId) -> VersionNumber:
        return Holds([self.rollout]).version(self.task(node), SECRET) or self.primary

    def report(self, node: NodeId) -> None:
        """Let a node carry out what it is assigned."""
        if node not in self.down:
            self.mounted[node] = self.assigned(node)

    def facts(self) -> Facts:
        return Facts(
            service={SERVICE: self.service},
            secret={SECRET: secret(self.primary)},
            running={TaskId(self.task(node).id): self.task(node) for node in self.nodes},
            status={TaskId(self.task(node).id): self._status(node) for node in self.nodes},
            settled=frozenset({SERVICE}),
            ready=frozenset(node for node in self.nodes if node not in self.down),
            holds=Holds([self.rollout]),
        )

    def _status(self, node: NodeId) -> TaskStatusRecord:
        return TaskStatusRecord(
            id=self.task(node).id,
            spec_number=1,
            mounted=(MountedVersion(SECRET, self.mounted[node], 0.0),),
            at=self.now_s,
            healthy=self.healthy[node] if self.checked else None,
        )

    def step(self) -> None:
        """Take a step, and check what no step may do."""
        before = self.rollout
        if before.finished_at is not None:
            return
        self.rollout = after = step(before, self.facts(), self.now_s)
        new = _released(after) - _released(before)
        if before.state is RolloutState.PAUSED or after.state is RolloutState.PAUSED:
            assert not new
        if after.state is not RolloutState.RUNNING or not new:
            return
        assert _released(after) >= _released(before)
        open_ones = {t.node_id for t in after.targets if t.state is TargetState.RELEASED}
        assert open_ones == new, "a group began while another was open"
        if not after.canary_passed:
            assert len(_released(after)) <= self.policy.canary
        elif self.policy.parallelism:
            assert len(new) <= self.policy.parallelism


ROLLING_BACK, ROLLED_BACK = RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK
FAILED_BACK = RolloutState.FAILED


def _released(rollout: RolloutRecord) -> set[NodeId]:
    return {t.node_id for t in rollout.targets if t.released_at is not None}


policies = st.builds(
    UpdatePolicy,
    parallelism=st.integers(0, 3),
    delay_s=st.sampled_from([0.0, 5.0]),
    canary=st.integers(0, 3),
    monitor_s=st.sampled_from([0.0, 10.0]),
    patience_s=st.just(60.0),
    on_failure=st.sampled_from([FailureAction.PAUSE, FailureAction.ROLLBACK]),
)
fleets = st.builds(Fleet, st.integers(1, 6), policies, st.booleans())
Event = Callable[[Fleet, NodeId], None]


def _fall_ill(fleet: Fleet, node: NodeId) -> None:
    fleet.healthy[node] = fleet.mounted[node] != NEW


def _go_down(fleet: Fleet, node: NodeId) -> None:
    fleet.down.add(node)


def _come_up(fleet: Fleet, node: NodeId) -> None:
    fleet.down.discard(node)


def _wait(fleet: Fleet, _node: NodeId) -> None:
    fleet.now_s += 7.0


EVENTS: tuple[Event, ...] = (Fleet.report, Fleet.report, _fall_ill, _go_down, _come_up, _wait)


@given(fleets, st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 5)), max_size=60))
def test_nobody_holds_the_change_before_its_release(
    fleet: Fleet, events: list[tuple[Event, int]]
) -> None:
    """In any order of events: one group at a time, never larger than asked for, and what was not
    released keeps the version before."""
    for event, number in events:
        fleet.step()
        event(fleet, fleet.nodes[number % fleet.size])
        held_back = set(fleet.nodes) - _released(fleet.rollout)
        if fleet.rollout.finished_at is None:
            assert all(fleet.mounted[node] == OLD for node in held_back)


@given(fleets)
def test_a_healthy_change_reaches_everybody(fleet: Fleet) -> None:
    """Where every node answers and works, the rollout ends by itself, with each task done."""
    for _ in range(MOST_STEPS):
        fleet.step()
        if fleet.rollout.finished_at is not None:
            break
        for node in fleet.nodes:
            fleet.report(node)
        fleet.now_s += 2.0
    assert fleet.rollout.state is RolloutState.FINISHED
    assert set(fleet.mounted.values()) == {NEW}
    assert {target.state for target in fleet.rollout.targets} == {TargetState.DONE}


@given(fleets.filter(lambda fleet: fleet.checked), st.integers(0, 5))
def test_a_bad_change_stops_and_what_was_before_comes_back(fleet: Fleet, sick: int) -> None:
    """One task that refuses the change ends it; taken back, every node has the version before."""
    victim = fleet.nodes[sick % fleet.size]
    for _ in range(MOST_STEPS):
        fleet.step()
        if fleet.rollout.state is RolloutState.PAUSED:
            seen = fleet.rollout
            fleet.now_s += 1000.0
            fleet.step()
            assert _released(fleet.rollout) == _released(seen)
            fleet.rollout = turned_back(fleet.rollout, "by hand", fleet.now_s)
        if fleet.rollout.finished_at is not None:
            break
        for node in fleet.nodes:
            fleet.report(node)
            fleet.healthy[node] = node != victim or fleet.mounted[node] == OLD
        fleet.now_s += 2.0
    assert fleet.rollout.state is RolloutState.ROLLED_BACK
    assert set(fleet.mounted.values()) == {OLD}
