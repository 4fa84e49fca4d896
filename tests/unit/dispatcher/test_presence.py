"""Presence: a node is down only if it has been gone for a while and came back nowhere."""

import pytest

from cluster.dispatcher.presence import DOWN_AFTER_S, Presence, mark_down
from cluster.protocol import wire
from cluster.protocol.ids import ManagerId, NodeId
from cluster.store.records import NodeState, NodeStatusRecord
from tests.unit.dispatcher.lab import DispatchLab


def status(lab: DispatchLab, node_id: NodeId) -> NodeStatusRecord:
    stored = lab.view.node_statuses.get(node_id)
    assert stored is not None
    return stored.record


async def gone(lab: DispatchLab) -> NodeId:
    """Return a node whose session has just ended."""
    node_id = await lab.join("one", ready=False)
    async with lab.talk(node_id) as talk:
        await talk.link.next(wire.Snapshot)
    return node_id


async def test_open_session_makes_a_node_ready(lab: DispatchLab) -> None:
    node_id = await lab.join("one", ready=False)
    async with lab.talk(node_id) as talk:
        await talk.link.next(wire.Snapshot)
        found = status(lab, node_id)
        assert (found.state, found.manager_id) == (NodeState.READY, "m1")
        assert (found.mounts, found.strength) == ("kernel", "secure")
        assert found.session_id == talk.session.session_id
        assert lab.presence.sessions_of(node_id) == (talk.session,)


async def test_node_is_down_once_it_was_gone_long_enough(lab: DispatchLab) -> None:
    node_id = await gone(lab)
    await lab.presence._sweep()
    lab.clock.advance(DOWN_AFTER_S - 1)
    await lab.presence._sweep()
    assert status(lab, node_id).state is NodeState.READY
    lab.clock.advance(1)
    await lab.presence._sweep()
    assert status(lab, node_id).state is NodeState.DOWN
    assert status(lab, node_id).since == lab.clock.now().timestamp()


async def test_node_that_came_back_starts_anew(lab: DispatchLab) -> None:
    node_id = await gone(lab)
    await lab.presence._sweep()
    lab.clock.advance(DOWN_AFTER_S - 1)
    async with lab.talk(node_id) as talk:
        await talk.link.next(wire.Snapshot)
        await lab.presence._sweep()
    lab.clock.advance(DOWN_AFTER_S - 1)
    await lab.presence._sweep()
    assert status(lab, node_id).state is NodeState.READY


async def test_node_that_went_to_another_manager_is_left_to_it(lab: DispatchLab) -> None:
    node_id = await gone(lab)
    await lab.presence._sweep()
    await lab.state(node_id, NodeState.READY, manager_id=ManagerId("m2"))
    lab.clock.advance(DOWN_AFTER_S * 2)
    await lab.presence._sweep()
    assert status(lab, node_id).state is NodeState.READY


async def test_node_that_came_back_to_the_same_manager_is_not_marked_down(
    lab: DispatchLab,
) -> None:
    """It was found gone, and came back before that was written."""
    node_id = await gone(lab)
    before = status(lab, node_id)
    async with lab.talk(node_id) as talk:
        await talk.link.next(wire.Snapshot)
        await mark_down(lab.store, before, lab.clock)
        assert status(lab, node_id).state is NodeState.READY
        await mark_down(lab.store, status(lab, node_id), lab.clock)
        assert status(lab, node_id).state is NodeState.DOWN


async def test_restarted_manager_misses_the_nodes_it_had(lab: DispatchLab) -> None:
    """Its sessions ended with it; nobody else would notice that they never came back."""
    node_id = await lab.join("one")
    again = Presence(lab.store, lab.clock, ManagerId("m1"))
    await again._sweep()
    lab.clock.advance(DOWN_AFTER_S)
    await again._sweep()
    assert status(lab, node_id).state is NodeState.DOWN


@pytest.mark.parametrize("what", ["rotate", "remove", "evict"])
async def test_change_wakes_the_node_it_concerns(lab: DispatchLab, what: str) -> None:
    node_id = await lab.running("db")
    async with lab.talk(node_id) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))
        if what == "rotate":
            await lab.rotate("db", b"second")
        elif what == "remove":
            await lab.remove_service("red")
        else:
            await lab.evict(node_id)
        await talk.link.next(wire.Wipe if what == "evict" else wire.Delta)
