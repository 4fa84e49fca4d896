"""The placement duty over a real store."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from cluster.control.node_states import PATIENCE_S
from cluster.control.placement_duty import LOOK_AGAIN_S, REST_PER_PLACING, PlacementDuty
from cluster.control.policy import Principal, Role
from cluster.control.rollouts import KEPT
from cluster.protocol.errors import Conflict
from cluster.protocol.identity import Kind, SpiffeId
from cluster.protocol.ids import ManagerId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import CLUSTER_ID, Availability, NodeState
from cluster.store.steps import Write
from tests.support.clock import ManualClock
from tests.support.stores import StoreLab
from tests.unit.control.lab import ControlLab, drafted


async def test_drained_node_gives_its_tasks_away(lab: ControlLab) -> None:
    await lab.join("n1")
    await lab.service("web")
    duty = lab.duty()
    await lab.settle(duty)
    await lab.join("n2")
    await lab.settle(duty)
    assert lab.placed("web") == {"n1"}
    await lab.nodes.update(lab.context(), "n1", add_labels={}, availability=Availability.DRAIN)
    await lab.settle(duty)
    assert lab.placed("web") == {"n2"}


async def test_node_of_a_dead_manager_loses_its_tasks_after_patience(lab: ControlLab) -> None:
    node_id = await lab.join("n1", ready=False)
    await lab.state(node_id, NodeState.READY, manager_id=ManagerId("dead"))
    lab.alive = {ManagerId("m1"), ManagerId("dead")}
    await lab.service("web")
    duty = lab.duty()
    await lab.settle(duty)
    await lab.join("n2")
    lab.alive = {ManagerId("m1")}
    await lab.settle(duty)
    assert lab.placed("web") == {"n1"}
    lab.clock.advance(PATIENCE_S)
    await lab.settle(duty)
    assert lab.placed("web") == {"n2"}


async def test_constraint_moves_a_task(lab: ControlLab) -> None:
    await lab.join("n1")
    await lab.service("web")
    duty = lab.duty()
    await lab.settle(duty)
    await lab.join("n2")
    draft = drafted("web", constraints=("node.name==n2",))
    await lab.services.update(lab.context(), "web", draft)
    await lab.settle(duty)
    assert lab.placed("web") == {"n2"}


async def test_running_duty_places_as_things_change(lab: ControlLab) -> None:
    running = asyncio.create_task(lab.duty().run())
    try:
        await lab.join("n1")
        await lab.service("web")
        async with asyncio.timeout(20):
            while lab.placed("web") != {"n1"}:
                await lab.view.wait_for(lab.view.revision + 1, 20)
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_more_tasks_than_one_write_takes_are_placed(lab: ControlLab) -> None:
    for number in range(35):
        await lab.join(f"n{number}")
    await lab.services.create(lab.context(), drafted("web", is_global=True))
    duty = lab.duty()
    await lab.settle(duty)
    assert len(lab.placed("web")) == 35
    await lab.services.remove(lab.context(), "web")
    await lab.settle(duty)
    assert len(lab.view.tasks) == 0


async def test_lost_campaign_ends_the_duty(lab: ControlLab, stores: StoreLab) -> None:
    """A holder that was replaced cannot write."""
    first = await stores.engine.campaign("placement", "m1", 5.0)
    identity = SpiffeId("lab.example", Kind.MANAGER, "m1")
    duty = PlacementDuty(
        lab.store,
        lab.clock,
        Principal(identity, str(identity), Role.MANAGER),
        lambda write: replace(write, guards=(first.guard,)),
        lambda: lab.alive,
    )
    await lab.join("n1")
    await lab.service("web")
    await lab.settle(duty)
    assert lab.placed("web") == {"n1"}
    await first.resign()
    await lab.service("api", uid=2000)
    with pytest.raises(Conflict):
        await asyncio.wait_for(duty.run(), 20)
    assert lab.placed("api") == set()


@pytest.mark.parametrize(
    ("placing_s", "rest_s"), [(0.5, 0.5 * REST_PER_PLACING), (300.0, LOOK_AGAIN_S)]
)
async def test_rest_after_a_long_placing_is_no_longer_than_the_next_look(
    lab: ControlLab, placing_s: float, rest_s: float
) -> None:
    """A process that was stopped for minutes while it placed does not rest for four times that."""
    identity = SpiffeId("lab.example", Kind.MANAGER, "m1")

    def alive() -> set[ManagerId]:
        lab.clock.advance(placing_s)
        return lab.alive

    duty = PlacementDuty(
        lab.store,
        lab.clock,
        Principal(identity, str(identity), Role.MANAGER),
        lambda write: write,
        alive,
    )
    await duty.round()
    assert duty._rest_s() == rest_s


class TickingClock(ManualClock):
    """Every look at it takes an eighth of a second."""

    def monotonic_s(self) -> float:
        """Return the time that never jumps back."""
        self.advance(0.125)
        return super().monotonic_s()


async def test_rest_counts_what_judging_rollouts_took(lab: ControlLab) -> None:
    identity = SpiffeId("lab.example", Kind.MANAGER, "m1")
    principal = Principal(identity, str(identity), Role.MANAGER)
    duty = PlacementDuty(
        lab.store, TickingClock(), principal, lambda write: write, lambda: lab.alive
    )
    await lab.settle(duty)
    assert duty._rollouts.judging_s == 0.0
    await lab.secret("db", b"x")
    await lab.join("n1")
    await lab.service("web", "db")
    await lab.settle(duty)
    assert duty._rollouts.judging_s > 0.0
    assert duty._rest_s() == REST_PER_PLACING * (duty._placing_s + duty._rollouts.judging_s)


async def test_silence_of_the_cluster_is_recorded_as_an_outage(lab: ControlLab) -> None:
    await lab.settle(lab.duty())
    began = lab.clock.now().timestamp()
    lab.clock.advance(timedelta(minutes=14))
    await lab.settle(lab.duty())
    assert _cluster_outages(lab) == []
    began = lab.clock.now().timestamp()
    lab.clock.advance(timedelta(days=2))
    await lab.settle(lab.duty())
    assert _cluster_outages(lab) == [(began, lab.clock.now().timestamp())]


def _cluster_outages(lab: ControlLab) -> list[tuple[float, float]]:
    stored = lab.view.cluster.get(CLUSTER_ID)
    assert stored is not None
    return [(outage.started_at, outage.ended_at) for outage in stored.record.outages]


async def test_what_has_had_its_time_is_swept(lab: ControlLab) -> None:
    node_id = await lab.join("n1")
    await lab.token()
    await lab.secret("db")
    for number in range(KEPT + 3):
        await lab.secrets.rotate(lab.context(), "db", SecretBytes(b"%d" % number))
    await lab.nodes.remove(lab.context(), "n1")
    duty = lab.duty()
    await lab.settle(duty, rounds=1)
    lab.clock.advance(timedelta(hours=3))
    await lab.settle(duty, rounds=3)
    assert (len(lab.view.requests), len(lab.view.join_tokens)) == (0, 0)
    assert len(lab.view.rollouts) == KEPT
    assert lab.view.nodes.get(node_id) is not None
    lab.clock.advance(timedelta(days=9))
    await lab.settle(lab.duty(), rounds=1)
    assert lab.view.nodes.get(node_id) is None


async def test_writes_of_the_duty_name_the_manager(lab: ControlLab) -> None:
    written: list[Write] = []

    def guarded(write: Write) -> Write:
        written.append(write)
        return write

    identity = SpiffeId("lab.example", Kind.MANAGER, "m1")
    principal = Principal(identity, str(identity), Role.MANAGER)
    duty = PlacementDuty(lab.store, lab.clock, principal, guarded, lambda: lab.alive)
    await lab.join("n1")
    await lab.service("web")
    await lab.settle(duty)
    actions = {entry.action for write in written for entry in write.audit}
    assert {"placement.change", "rollout.update", "cluster.alive"} <= actions
    assert {entry.caller for write in written for entry in write.audit} == {str(identity)}
