"""Changes that go out in groups, over a real store: who is held, released, brought back."""

import msgspec
import pytest

from cluster.control.policy import Role
from cluster.control.rollout_policy import PolicyChange
from cluster.control.update_draft import HealthDraft, UpdateDraft
from cluster.protocol.errors import Conflict, NotFound, PermissionDenied
from cluster.protocol.ids import NodeId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import (
    FailureAction,
    NodeState,
    RolloutState,
    TargetState,
    VersionState,
)
from tests.unit.control.lab import DEPLOYER, operator
from tests.unit.control.rollout_lab import CANARY, Fleet


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
    new_canary = fleet.changed()
    assert fleet.held() == ([1, 1, 3] if new_canary == canary else [1, 2, 3])
    await fleet.lab.mounted("app", new_canary, {"db": 1}, error="refused")
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
