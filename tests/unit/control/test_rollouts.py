"""Changes that go out in groups, over a real store: who is held, released, brought back."""

from typing import Any

import msgspec
import pytest

from cluster.control.policy import Role
from cluster.control.rollout_actions import RolloutActions
from cluster.control.rollout_policy import PolicyChange, policy_for
from cluster.control.rollout_status import RolloutStatus
from cluster.control.update_draft import HealthDraft, UpdateDraft
from cluster.protocol.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    SecretInUse,
)
from cluster.protocol.ids import NodeId, SecretId, ServiceId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import (
    FailureAction,
    NodeState,
    RolloutRecord,
    RolloutState,
    ServiceSpec,
    TargetState,
    TaskRecord,
    UpdatePolicy,
    VersionState,
    task_id,
)
from tests.unit.control.lab import DEPLOYER, ControlLab, drafted, operator

CANARY = UpdateDraft(canary=1, parallelism=1, on_failure=FailureAction.ROLLBACK)


class Fleet:
    """Three nodes, each with a task of `app`, and the duty that moves them."""

    def __init__(self, lab: ControlLab) -> None:
        self.lab = lab
        self.duty = lab.duty()
        self.nodes: list[NodeId] = []
        self.actions = RolloutActions(lab.requests)
        self.status = RolloutStatus(lab.requests)

    async def set_up(self, update: UpdateDraft = CANARY, **more: object) -> None:
        """Place `app` on three nodes with version 1 of `db`."""
        await self.lab.secret("db")
        self.nodes = [await self.lab.join(f"n{number}") for number in range(3)]
        await self.lab.services.create(
            self.lab.context(), drafted("app", "db", is_global=True, update=update, **more)
        )
        await self.settle()
        await self.report()

    async def settle(self) -> None:
        await self.lab.settle(self.duty)

    async def rotate(self, change: PolicyChange | None = None) -> str:
        """Rotate `db` and return the rollout."""
        more: dict[str, Any] = {"policy": change} if change is not None else {}
        answer = await self.lab.secrets.rotate(
            self.lab.context(), "db", SecretBytes(b"next"), **more
        )
        await self.settle()
        return str(answer.body["rollout"])

    def task(self, node: NodeId) -> TaskRecord:
        service = self.lab.view.service_by_name("app")
        assert service is not None
        stored = self.lab.view.tasks.get(task_id(ServiceId(service.record.id), node))
        assert stored is not None
        return stored.record

    def assigned(self, node: NodeId) -> int:
        """Return the version of `db` that a node is to hold."""
        secret = self.lab.view.secret_by_name("db")
        assert secret is not None
        held = self.lab.view.holds.version(self.task(node), SecretId(secret.record.id))
        return held or secret.record.primary.number

    def held(self) -> list[int]:
        return sorted(self.assigned(node) for node in self.nodes)

    async def report(self, *nodes: NodeId, **fields: object) -> None:
        """Have nodes carry out what they are assigned, and let the duty look."""
        for node in nodes or self.nodes:
            await self.lab.mounted("app", node, {"db": self.assigned(node)})
            stored = self.lab.view.task_statuses.get(self.task(node).id)
            assert stored is not None
            held = self.lab.view.holds.spec(self.task(node))
            changes = {"spec_number": held.number} if held is not None else {}
            await self.lab.write(msgspec.structs.replace(stored.record, **changes, **fields))
        await self.settle()

    def rollout(self, rollout: str) -> RolloutRecord:
        stored = self.lab.view.rollouts.get(rollout)
        assert stored is not None
        return stored.record

    def changed(self) -> NodeId:
        """Return the node that is assigned another version than the others."""
        numbers = [self.assigned(node) for node in self.nodes]
        return self.nodes[numbers.index(max(numbers))]

    def version_states(self) -> dict[int, VersionState]:
        secret = self.lab.view.secret_by_name("db")
        assert secret is not None
        return {version.number: version.state for version in secret.record.versions}


@pytest.fixture
async def fleet(lab: ControlLab) -> Fleet:
    return Fleet(lab)


async def test_a_rotation_goes_from_the_canary_to_one_after_the_other(fleet: Fleet) -> None:
    await fleet.set_up()
    rollout = await fleet.rotate()
    seen = [fleet.held()]
    while fleet.rollout(rollout).finished_at is None:
        await fleet.report()
        seen.append(fleet.held())
    assert seen[0] == [1, 1, 2]
    assert [1, 2, 2] in seen
    assert seen[-1] == [2, 2, 2]
    assert fleet.rollout(rollout).state is RolloutState.FINISHED


async def test_without_a_policy_everybody_is_released_at_once(fleet: Fleet) -> None:
    await fleet.set_up(UpdateDraft())
    rollout = await fleet.rotate()
    assert fleet.held() == [2, 2, 2]
    assert fleet.rollout(rollout).policy is None
    with pytest.raises(Conflict, match="secret rollback db"):
        await fleet.actions.pause(fleet.lab.context(), rollout)


async def test_one_rotation_can_be_told_to_wait_for_a_canary(fleet: Fleet) -> None:
    await fleet.set_up(UpdateDraft())
    await fleet.rotate(PolicyChange(canary=1))
    assert fleet.held() == [1, 1, 2]


async def test_an_error_of_the_canary_takes_the_version_back(fleet: Fleet) -> None:
    """The version before is primary and the failed one retired in the transaction that says so."""
    await fleet.set_up()
    rollout = await fleet.rotate()
    canary = fleet.changed()
    await fleet.lab.mounted("app", canary, {"db": 1}, error="no space")
    await fleet.settle()
    record = fleet.rollout(rollout)
    assert (record.state, record.reason) == (
        RolloutState.ROLLING_BACK,
        f"app on {_name(fleet, canary)}: no space",
    )
    assert fleet.held() == [1, 1, 1]
    assert fleet.version_states() == {1: VersionState.PRIMARY, 2: VersionState.RETIRED}
    await fleet.report()
    assert fleet.rollout(rollout).state is RolloutState.ROLLED_BACK


def _name(fleet: Fleet, node: NodeId) -> str:
    stored = fleet.lab.view.nodes.get(node)
    assert stored is not None
    return stored.record.name


async def test_an_unhealthy_canary_pauses_and_nobody_else_is_released(fleet: Fleet) -> None:
    draft = msgspec.structs.replace(CANARY, on_failure=FailureAction.PAUSE)
    await fleet.set_up(draft, health=HealthDraft(process=True))
    rollout = await fleet.rotate()
    canary = fleet.changed()
    await fleet.report(canary, healthy=False, health_detail="exit status 1")
    assert fleet.rollout(rollout).state is RolloutState.PAUSED
    assert "exit status 1" in fleet.rollout(rollout).reason
    await fleet.report(*(node for node in fleet.nodes if node != canary), healthy=True)
    assert fleet.held() == [1, 1, 2]
    await fleet.report(canary, healthy=True)
    await fleet.actions.resume(fleet.lab.context(), rollout)
    await fleet.settle()
    assert fleet.held() == [1, 2, 2]


async def test_what_failed_may_still_be_taken_back_by_hand(fleet: Fleet) -> None:
    draft = msgspec.structs.replace(CANARY, on_failure=FailureAction.PAUSE)
    await fleet.set_up(draft)
    rollout = await fleet.rotate()
    await fleet.actions.pause(fleet.lab.context(), rollout)
    with pytest.raises(Conflict, match="paused, not running"):
        await fleet.actions.pause(fleet.lab.context(), rollout)
    await fleet.report()
    assert fleet.held() == [1, 1, 2]
    await fleet.actions.rollback(fleet.lab.context(), rollout)
    assert fleet.held() == [1, 1, 1]
    await fleet.report()
    assert fleet.rollout(rollout).state is RolloutState.ROLLED_BACK
    with pytest.raises(Conflict, match="rolled_back, not paused"):
        await fleet.actions.resume(fleet.lab.context(), rollout)
    with pytest.raises(NotFound):
        await fleet.actions.resume(fleet.lab.context(), "no-such-rollout")


async def test_patience_counts_from_the_release(fleet: Fleet) -> None:
    await fleet.set_up(msgspec.structs.replace(CANARY, patience_s=20.0))
    rollout = await fleet.rotate()
    fleet.lab.clock.advance(19.0)
    await fleet.settle()
    assert fleet.rollout(rollout).state is RolloutState.RUNNING
    fleet.lab.clock.advance(1.0)
    await fleet.settle()
    assert fleet.rollout(rollout).state is RolloutState.ROLLED_BACK
    assert fleet.rollout(rollout).reason.endswith("its files are not in place")


async def test_a_node_that_is_down_is_left_behind_and_named(fleet: Fleet) -> None:
    """It does not stop the others, and takes the change when it comes back."""
    await fleet.set_up()
    away = fleet.nodes[0]
    await fleet.lab.state(away, NodeState.DOWN)
    rollout = await fleet.rotate()
    here = fleet.nodes[1:]
    assert fleet.assigned(away) == 1
    for _ in range(4):
        await fleet.report(*here)
    record = fleet.rollout(rollout)
    assert (record.state, record.reason) == (RolloutState.FINISHED, "left behind: app on n0")
    assert fleet.held() == [2, 2, 2]


async def test_canaries_are_chosen_among_nodes_that_answer(fleet: Fleet) -> None:
    await fleet.set_up()
    for node in fleet.nodes[:2]:
        await fleet.lab.state(node, NodeState.DOWN)
    await fleet.rotate()
    assert fleet.changed() == fleet.nodes[2]


async def test_what_takes_over_goes_on_from_what_tasks_hold(fleet: Fleet) -> None:
    """The canary of the older rotation keeps its version until the newer one's turn, and what was
    good before the older one is what a failure brings back."""
    await fleet.set_up()
    first = await fleet.rotate()
    canary = fleet.changed()
    await fleet.lab.secrets.rotate(fleet.lab.context(), "db", SecretBytes(b"three"))
    assert fleet.held() == [1, 1, 2]
    assert fleet.rollout(first).state is RolloutState.SUPERSEDED
    await fleet.settle()
    newest = next(
        s.record for s in fleet.lab.view.rollouts.values() if s.record.finished_at is None
    )
    assert newest.before_version == 1
    await fleet.report()
    second = fleet.changed()
    await fleet.lab.mounted("app", second, {"db": 2}, error="refused")
    await fleet.settle()
    if fleet.rollout(newest.id).state is RolloutState.RUNNING:
        other = next(n for n in fleet.nodes if n not in {canary, second})
        await fleet.lab.mounted("app", other, {"db": 1}, error="refused")
        await fleet.settle()
    assert fleet.held() == [1, 1, 1]


async def test_a_node_placed_before_the_canary_passed_gets_what_was_before(fleet: Fleet) -> None:
    await fleet.set_up()
    await fleet.rotate()
    early = await fleet.lab.join("n3")
    await fleet.settle()
    assert fleet.assigned(early) == 1
    await fleet.report(*fleet.nodes)
    late = await fleet.lab.join("n4")
    await fleet.settle()
    assert (fleet.assigned(early), fleet.assigned(late)) == (1, 2)


async def test_an_update_keeps_the_spec_before_until_its_turn(fleet: Fleet) -> None:
    """What that spec refers to can neither be removed nor pinned away meanwhile."""
    await fleet.set_up()
    await fleet.lab.secret("next")
    service = fleet.lab.services
    update = drafted("app", "next", is_global=True, update=CANARY)
    await service.update(fleet.lab.context(), "app", update)
    # Once more, so that no spec of the service itself refers to `db`.
    update = drafted("app", "next", is_global=True, update=CANARY, gid=7)
    answer = await service.update(fleet.lab.context(), "app", update)
    await fleet.settle()
    specs = [fleet.lab.view.holds.spec(fleet.task(node)) for node in fleet.nodes]
    assert sorted(0 if held is None else held.number for held in specs) == [0, 1, 1]
    with pytest.raises(SecretInUse):
        await fleet.lab.secrets.remove(fleet.lab.context(), "db")
    rollout = str(answer.body["rollout"])
    await fleet.actions.rollback(fleet.lab.context(), rollout)
    stored = fleet.lab.view.service_by_name("app")
    assert stored is not None
    assert stored.record.spec_number == 4
    assert [one.source for one in stored.record.spec.references] == ["db"]
    await fleet.report()
    assert fleet.rollout(rollout).state is RolloutState.ROLLED_BACK


async def test_a_change_that_nodes_do_not_see_goes_to_all_at_once(fleet: Fleet) -> None:
    await fleet.set_up()
    draft = drafted("app", "db", is_global=True, update=CANARY, labels={"team": "red"})
    answer = await fleet.lab.services.update(fleet.lab.context(), "app", draft)
    assert fleet.rollout(str(answer.body["rollout"])).policy is None


async def test_the_uid_of_a_spec_that_is_held_stays_taken(fleet: Fleet) -> None:
    """Two services never share a uid on a node, also while one of them changes its own."""
    await fleet.set_up()
    draft = drafted("app", "db", is_global=True, update=CANARY, uid=2000)
    await fleet.lab.services.update(fleet.lab.context(), "app", draft)
    await fleet.lab.services.create(
        fleet.lab.context(), drafted("other", "db", is_global=True, uid=1000)
    )
    await fleet.settle()
    assert fleet.lab.placed("other") == set()
    for _ in range(5):
        await fleet.report()
    assert fleet.lab.placed("other") == {"n0", "n1", "n2"}


async def test_what_cannot_be_taken_back_is_paused(fleet: Fleet) -> None:
    await fleet.set_up()
    rollout = await fleet.rotate()
    secret = fleet.lab.view.secret_by_name("db")
    assert secret is not None
    lost = tuple(
        msgspec.structs.replace(version, destroyed=version.number == 1)
        for version in secret.record.versions
    )
    await fleet.lab.write(msgspec.structs.replace(secret.record, versions=lost))
    await fleet.lab.mounted("app", fleet.changed(), {"db": 1}, error="no space")
    await fleet.settle()
    record = fleet.rollout(rollout)
    assert record.state is RolloutState.PAUSED
    assert "no space; it cannot be rolled back" in record.reason


async def test_a_failure_on_the_way_back_is_told_and_ends_it(fleet: Fleet) -> None:
    await fleet.set_up(health=HealthDraft(process=True))
    rollout = await fleet.rotate()
    canary = fleet.changed()
    await fleet.report(canary, healthy=False, health_detail="exit status 1")
    await fleet.report(canary, healthy=False, health_detail="exit status 2")
    record = fleet.rollout(rollout)
    assert record.state is RolloutState.FAILED
    assert "exit status 1; the way back failed: app on " in record.reason
    assert fleet.held() == [1, 1, 1]


async def test_a_failure_that_does_not_matter_is_noted(fleet: Fleet) -> None:
    draft = UpdateDraft(parallelism=1, on_failure=FailureAction.CONTINUE)
    await fleet.set_up(draft)
    rollout = await fleet.rotate()
    broken = fleet.changed()
    await fleet.lab.mounted("app", broken, {"db": 1}, error="no space")
    await fleet.settle()
    others = [node for node in fleet.nodes if node != broken]
    for _ in range(3):
        await fleet.report(*others)
    record = fleet.rollout(rollout)
    assert (record.state, "no space" in record.reason) == (RolloutState.FAILED, True)
    assert sorted(target.state for target in record.targets) == [
        TargetState.DONE,
        TargetState.DONE,
        TargetState.FAILED,
    ]


async def test_deployers_act_on_rollouts_of_their_own_alone(fleet: Fleet) -> None:
    await fleet.set_up()
    fleet.lab.clock.advance(1.0)
    rollout = await fleet.rotate()
    with pytest.raises(PermissionDenied):
        await fleet.actions.pause(fleet.lab.context(DEPLOYER), rollout)
    assert fleet.status.list(DEPLOYER) == []
    with pytest.raises(PermissionDenied):
        await fleet.actions.pause(fleet.lab.context(operator("aud", Role.AUDITOR)), rollout)
    (newest, *_) = fleet.status.list(operator("aud", Role.AUDITOR))
    assert (newest["id"], newest["state"], newest["before"]) == (rollout, "running", 1)


def test_the_strictest_policy_of_the_services_holds() -> None:
    specs = [
        ServiceSpec(update=UpdatePolicy(parallelism=5, on_failure=FailureAction.CONTINUE)),
        ServiceSpec(update=UpdatePolicy(canary=2, monitor_s=3.0, patience_s=90.0)),
        ServiceSpec(update=UpdatePolicy(parallelism=2, delay_s=1.0)),
    ]
    assert policy_for(specs) == UpdatePolicy(
        parallelism=2, delay_s=1.0, canary=2, monitor_s=3.0, patience_s=90.0
    )
    said = policy_for(specs, PolicyChange(canary=0, on_failure=FailureAction.ROLLBACK))
    assert said is not None
    assert (said.canary, said.on_failure) == (0, FailureAction.ROLLBACK)
    assert policy_for([ServiceSpec()]) is None
    assert policy_for(specs, PolicyChange(at_once=True)) is None


@pytest.mark.parametrize(
    "change",
    [
        PolicyChange(canary=-1),
        PolicyChange(parallelism=-1),
        PolicyChange(monitor_s=-1.0),
        PolicyChange(patience_s=float("nan")),
        PolicyChange(delay_s=1e9),
    ],
)
def test_a_policy_out_of_range_is_refused(change: PolicyChange) -> None:
    with pytest.raises(InvalidRequest):
        policy_for([ServiceSpec()], change)
