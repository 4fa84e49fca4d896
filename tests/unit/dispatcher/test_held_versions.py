"""What a rollout has not released is sent to nobody: neither pushed, nor to a new session, nor on
request."""

import pytest

from cluster.control.update_draft import UpdateDraft
from cluster.protocol import wire
from cluster.protocol.ids import NodeId, VersionNumber
from tests.unit.control.rollout_lab import Fleet
from tests.unit.dispatcher.lab import DispatchLab
from tests.unit.dispatcher.test_issue import issue

pytestmark = pytest.mark.threat("T-41")


def versions(lab: DispatchLab, node: NodeId) -> set[VersionNumber]:
    """Return what a node ever had a receipt for."""
    return {stored.record.version for stored in lab.view.receipts_of_node(node)}


async def test_control_without_a_policy_everybody_is_sent_the_change(lab: DispatchLab) -> None:
    fleet = Fleet(lab)
    await fleet.set_up(UpdateDraft())
    await fleet.rotate()
    for node in fleet.nodes:
        async with lab.talk(node) as talk:
            values = await talk.link.next(wire.Values)
        assert [one.version for one in values.values] == [2]


async def test_only_the_canary_is_sent_the_change(lab: DispatchLab) -> None:
    """The others' sessions, opened before or after, and their requests yield the version before."""
    fleet = Fleet(lab)
    await fleet.set_up()
    early = fleet.nodes[0]
    async with lab.talk(early) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))
        rollout = await fleet.rotate()
        canary = fleet.changed()
        waiting = [node for node in fleet.nodes if node != canary]
        for node in waiting:
            async with lab.talk(node) as other:
                manifest = await other.link.next(wire.Snapshot)
            assert [file.version for one in manifest.services for file in one.files] == [1]
            assert await issue(lab, node, "app", "db") == (1, b"value")
            assert versions(lab, node) == {1}
        assert await issue(lab, canary, "app", "db") == (2, b"next")
        while fleet.rollout(rollout).finished_at is None:
            await fleet.report()
        if early != canary:
            delta = await talk.link.next(wire.Delta)
            assert [file.version for one in delta.changed for file in one.files] == [2]


async def test_what_was_taken_back_is_issued_no_more(lab: DispatchLab) -> None:
    fleet = Fleet(lab)
    await fleet.set_up()
    await fleet.rotate()
    canary = fleet.changed()
    await lab.mounted("app", canary, {"db": 1}, error="refused")
    await fleet.settle()
    for node in fleet.nodes:
        assert await issue(lab, node, "app", "db") == (1, b"value")
    assert 2 not in versions(lab, canary)


async def test_a_release_wakes_the_session_it_concerns(lab: DispatchLab) -> None:
    """Nothing but the rollout's record changes then."""
    fleet = Fleet(lab)
    await fleet.set_up()
    await fleet.rotate()
    canary = fleet.changed()
    waiting = next(node for node in fleet.nodes if node != canary)
    async with lab.talk(waiting) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))
        others = [node for node in fleet.nodes if node != waiting]
        while fleet.assigned(waiting) == 1:
            await fleet.report(*others)
        values = await talk.link.next(wire.Values)
    assert [one.version for one in values.values] == [2]


async def test_held_spec_is_what_a_node_is_sent(lab: DispatchLab) -> None:
    fleet = Fleet(lab)
    await fleet.set_up()
    await lab.secret("further", b"further")
    draft = fleet.draft("db", "further")
    await lab.services.update(lab.context(), "app", draft)
    await fleet.settle()
    shown = {}
    for node in fleet.nodes:
        async with lab.talk(node) as talk:
            (service,) = (await talk.link.next(wire.Snapshot)).services
        shown[node] = service.spec_number, sorted(file.name for file in service.files)
    assert sorted(shown.values()) == [(1, ["db"]), (1, ["db"]), (2, ["db", "further"])]
