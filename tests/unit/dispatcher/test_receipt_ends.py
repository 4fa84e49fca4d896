"""What no ack can complete any more ends with the next answer, and nothing else does."""

import asyncio

import msgspec
import pytest

from cluster.protocol import wire
from cluster.protocol.errors import NoQuorum
from cluster.protocol.ids import NodeId
from tests.support.stores import StoreLab
from tests.unit.control.lab import AUDITOR
from tests.unit.dispatcher.lab import DispatchLab, WatchedEngine
from tests.unit.dispatcher.test_many_receipts import (
    InterruptedEngine,
    disturbed,
    interrupted,
)
from tests.unit.dispatcher.test_receipts import ack, assigned, issued

__all__ = ["disturbed", "interrupted"]


def waiting(lab: DispatchLab, node_id: NodeId) -> list[int]:
    """Return the versions of which nothing was reported yet."""
    return [one.record.version for one in lab.view.receipts_waiting(node_id)]


def ended(lab: DispatchLab, node_id: NodeId, number: int) -> tuple[bool, bool]:
    """Return whether a version was reported written, and whether it was reported gone."""
    receipt = lab.receipt(node_id, "db", number)
    assert receipt is not None
    return receipt.acked_at is not None, receipt.dropped_at is not None


def now(lab: DispatchLab) -> wire.RevisionPair:
    return wire.RevisionPair(1, "first", lab.view.revision)


# --- sessions -----------------------------------------------------------------------------------


async def test_a_version_that_was_replaced_before_it_was_sent(
    lab: DispatchLab, engine: WatchedEngine
) -> None:
    node_id = await lab.running("db")

    async def rotate() -> None:
        if lab.receipt(node_id, "db") is not None:  # the receipt is there, the value not yet sent
            engine.before_barrier = None
            await lab.rotate("db", b"second")

    engine.before_barrier = rotate
    async with lab.talk(node_id) as talk:
        snapshot = await talk.link.next(wire.Snapshot)
        assert waiting(lab, node_id) == [1, 2]
        await talk.carry_out(snapshot)
    assert waiting(lab, node_id) == []
    assert [ended(lab, node_id, number) for number in (1, 2)] == [(False, True), (True, False)]


async def test_a_version_whose_ack_was_lost(lab: DispatchLab) -> None:
    """It was sent, and may have been read: the record says so for good."""
    node_id = await lab.running("db")
    async with lab.talk(node_id) as talk:
        await talk.link.next(wire.Snapshot)
    sent = lab.receipt(node_id, "db")
    assert sent is not None
    lab.clock.advance(60)
    await lab.rotate("db", b"second")
    async with lab.talk(node_id) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))
    assert waiting(lab, node_id) == []
    ended_at = lab.clock.now().timestamp()
    assert lab.receipt(node_id, "db") == msgspec.structs.replace(sent, dropped_at=ended_at)
    versions = lab.exposure.where(AUDITOR, "db")["versions"]
    assert isinstance(versions, list)
    shown = [
        {key: one[key] for key in ("version", "issued", "acknowledged", "held")} for one in versions
    ]
    assert shown == [
        {"version": 2, "issued": 1, "acknowledged": 1, "held": 1},
        {"version": 1, "issued": 1, "acknowledged": 0, "held": 0},
    ]


async def test_a_version_that_comes_back_is_issued_anew_first(lab: DispatchLab) -> None:
    node_id = await lab.running("db")
    async with lab.talk(node_id) as talk:
        await talk.link.next(wire.Snapshot)
    first = lab.receipt(node_id, "db")
    assert first is not None
    await lab.rotate("db", b"second")
    async with lab.talk(node_id) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))
        lab.clock.advance(60)
        await lab.versions.rollback(lab.context(), "db", 1)
        delta = await talk.link.next(wire.Delta)
        assert waiting(lab, node_id) == [1]
        again = lab.receipt(node_id, "db")
        assert again is not None
        assert (again.first_issued_at, again.dropped_at) == (first.issued_at, None)
        await talk.carry_out(delta)
    assert ended(lab, node_id, 1) == (True, False)


async def test_a_service_that_was_removed_before_it_was_sent(
    lab: DispatchLab, engine: WatchedEngine
) -> None:
    node_id = await lab.running("db")

    async def remove() -> None:
        if waiting(lab, node_id):
            engine.before_barrier = None
            await lab.remove_service("red")

    engine.before_barrier = remove
    async with lab.talk(node_id) as talk:
        snapshot = await talk.link.next(wire.Snapshot)
        assert snapshot.services == ()
        assert waiting(lab, node_id) == [1]
        await talk.carry_out(snapshot)
    assert waiting(lab, node_id) == []


async def test_what_was_issued_in_vain_is_settled_by_a_manifest_without_a_change(
    lab: DispatchLab, engine: WatchedEngine
) -> None:
    """Nothing is to be sent any more, and the node would never be asked."""
    node_id = await lab.running("db")
    async with lab.talk(node_id) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))

        async def remove() -> None:
            if waiting(lab, node_id):
                engine.before_barrier = None
                await lab.remove_service("blue")
                raise NoQuorum

        engine.before_barrier = remove
        await lab.service("blue", "db", uid=2_000, constraints=("node.name==node-of-red",))
        await lab.settle(lab.duty())
        delta = await talk.link.next(wire.Delta)
        assert (delta.changed, delta.removed) == ((), ())
        assert waiting(lab, node_id) == [1]
        await talk.carry_out(delta)
        assert waiting(lab, node_id) == []
        await talk.heard()
        assert sum(isinstance(message, wire.Delta) for message in talk.link.sent) == 1


async def test_nothing_is_decided_while_an_ack_is_written(
    disturbed: DispatchLab, interrupted: InterruptedEngine, stores: StoreLab
) -> None:
    """Else a version could be sent on a receipt that the ack is about to end."""
    node_id = await disturbed.running("db")
    other = DispatchLab(stores, await stores.open("m2", "b2"), "m2")
    held, released = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        if not held.is_set():
            held.set()
            await released.wait()

    async with disturbed.talk(node_id) as talk:
        snapshot = await talk.link.next(wire.Snapshot)
        interrupted.before_transaction = hold
        acking = asyncio.create_task(talk.carry_out(snapshot))
        await held.wait()
        await other.rotate("db", b"second")
        while disturbed.receipt(node_id, "db", 2) is None:  # noqa: ASYNC110  # the view's own pace
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert not any(isinstance(message, wire.Delta) for message in talk.link.sent)
        released.set()
        await talk.link.next(wire.Delta)
        await acking


# --- what says nothing of a receipt -------------------------------------------------------------


async def told(lab: DispatchLab) -> tuple[NodeId, str]:
    """Return a node that was issued a version which its session does not ask for any more."""
    node_id, service_id = await issued(lab, "db")
    await lab.rotate("db", b"second")
    await lab.receipts.ensure(node_id, assigned(lab, node_id).values())
    return node_id, service_id


@pytest.mark.parametrize("behind", [True, False])
async def test_the_answer_to_a_manifest_ends_what_is_older_than_it(
    lab: DispatchLab, *, behind: bool
) -> None:
    """A younger receipt is of a delivery under way, perhaps another manager's."""
    node_id, service_id = await told(lab)
    first = lab.view.receipts_waiting(node_id)[0]
    assert first.record.version == 1
    last = wire.RevisionPair(1, "first", first.mod_revision - behind)
    said = msgspec.structs.replace(ack(service_id, lab.key_of("db", 2)), revision=last)
    await lab.receipts.acknowledge(node_id, said, assigned(lab, node_id), last)
    assert waiting(lab, node_id) == ([1] if behind else [])


async def test_a_late_answer_ends_nothing(lab: DispatchLab) -> None:
    node_id, service_id = await told(lab)
    last = now(lab)
    late = msgspec.structs.replace(last, number=last.number - 1)
    said = msgspec.structs.replace(ack(service_id, lab.key_of("db", 2)), revision=late)
    await lab.receipts.acknowledge(node_id, said, assigned(lab, node_id), last)
    assert waiting(lab, node_id) == [1]


async def test_a_failure_ends_nothing_and_the_success_after_it_does(lab: DispatchLab) -> None:
    node_id, service_id = await told(lab)
    last, sent = now(lab), assigned(lab, node_id)
    failed = msgspec.structs.replace(ack(service_id, error="no room"), revision=last)
    await lab.receipts.acknowledge(node_id, failed, sent, last)
    assert waiting(lab, node_id) == [1, 2]
    second = lab.receipt(node_id, "db", 2)
    assert second is not None
    assert second.error == "no room"
    said = msgspec.structs.replace(ack(service_id, lab.key_of("db", 2)), revision=last)
    await lab.receipts.acknowledge(node_id, said, sent, last)
    assert waiting(lab, node_id) == []


async def test_what_the_node_was_told_to_have_and_lacks_goes_on_waiting(lab: DispatchLab) -> None:
    node_id, service_id = await issued(lab, "db")
    last = now(lab)
    said = msgspec.structs.replace(ack(service_id), revision=last)
    await lab.receipts.acknowledge(node_id, said, assigned(lab, node_id), last)
    assert waiting(lab, node_id) == [1]


async def test_one_service_answers_for_itself_alone(lab: DispatchLab) -> None:
    """Two of them have the secret, on one node; the manifest brought both the new version."""
    node_id = await lab.running("db")
    await lab.service("blue", "db", uid=2_000, constraints=("node.name==node-of-red",))
    await lab.settle(lab.duty())
    await lab.receipts.ensure(node_id, assigned(lab, node_id).values())
    await lab.rotate("db", b"second")
    sent = assigned(lab, node_id)
    await lab.receipts.ensure(node_id, sent.values())
    last = now(lab)
    for name, left in (("red", [1, 2]), ("blue", [])):
        (service_id,) = (one.service_id for one in sent.values() if one.name == name)
        said = msgspec.structs.replace(ack(service_id, lab.key_of("db", 2)), revision=last)
        await lab.receipts.acknowledge(node_id, said, sent, last)
        assert waiting(lab, node_id) == left
