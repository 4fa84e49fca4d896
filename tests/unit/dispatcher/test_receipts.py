"""Receipts: they come first, only the truth completes them, and a lagging manager writes none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from cluster.dispatcher.assignments import assignments_of
from cluster.dispatcher.receipts import CHANGES_PER_WRITE
from cluster.dispatcher.sessions import ViewRecords
from cluster.engine.seam import Engine
from cluster.protocol import wire
from cluster.protocol.errors import PermissionDenied
from cluster.protocol.ids import NodeId
from cluster.store.records import Availability, Kind, TaskStatusRecord
from tests.support.stores import StoreLab
from tests.unit.dispatcher.lab import DispatchLab, WatchedEngine

PAIR = wire.RevisionPair(1, "first", 1)


def assigned(lab: DispatchLab, node_id: NodeId) -> dict[str, wire.ServiceAssignment]:
    return assignments_of(ViewRecords(lab.view), node_id)


async def issued(lab: DispatchLab, *secrets: str) -> tuple[NodeId, str]:
    """Place service `red`, issue its secrets, and return node and service."""
    node_id = await lab.running(*secrets)
    found = assigned(lab, node_id)
    await lab.receipts.ensure(node_id, found.values())
    (service_id,) = found
    return node_id, service_id


def ack(
    service_id: str, *mounted: wire.VersionKey, error: str = "", spec_number: int = 1
) -> wire.Ack:
    return wire.Ack(PAIR, (wire.ServiceResult(service_id, mounted, error, spec_number),))


def status(lab: DispatchLab) -> TaskStatusRecord:
    (stored,) = lab.view.task_statuses.values()
    return stored.record


async def test_receipt_is_open_until_the_agent_acks(lab: DispatchLab) -> None:
    node_id, service_id = await issued(lab, "db")
    receipt = lab.receipt(node_id, "db")
    assert receipt is not None
    assert (receipt.acked_at, receipt.dropped_at, receipt.issued_by) == (None, None, "m1")
    lab.clock.advance(5)
    await lab.receipts.acknowledge(node_id, ack(service_id, lab.key_of("db")), {})
    receipt = lab.receipt(node_id, "db")
    assert receipt is not None
    assert receipt.acked_at == lab.clock.now().timestamp()


async def test_issuing_is_audited_with_the_receipt(lab: DispatchLab) -> None:
    before = lab.view.revision
    node_id, _ = await issued(lab, "db")
    assert lab.view.revision > before
    assert not lab.receipts.missing(node_id, assigned(lab, node_id).values())


async def test_ack_says_what_is_mounted_since_when(lab: DispatchLab) -> None:
    node_id, service_id = await issued(lab, "db")
    await lab.receipts.acknowledge(node_id, ack(service_id, lab.key_of("db")), {})
    since = lab.clock.now().timestamp()
    lab.clock.advance(60)
    await lab.receipts.acknowledge(node_id, ack(service_id, lab.key_of("db"), error="disk"), {})
    assert [(m.version, m.since) for m in status(lab).mounted] == [(1, since)]
    assert status(lab).error == "disk"


async def test_same_ack_again_writes_nothing(lab: DispatchLab) -> None:
    node_id, service_id = await issued(lab, "db")
    await lab.receipts.acknowledge(node_id, ack(service_id, lab.key_of("db")), {})
    revision = await lab.store.barrier()
    lab.clock.advance(60)
    await lab.receipts.acknowledge(node_id, ack(service_id, lab.key_of("db")), {})
    assert await lab.store.barrier() == revision


async def test_dropped_receipt_stays_and_what_comes_back_is_issued_anew(lab: DispatchLab) -> None:
    node_id, service_id = await issued(lab, "db")
    await lab.receipts.acknowledge(node_id, wire.Ack(PAIR, (), (service_id,)), {})
    receipt = lab.receipt(node_id, "db")
    assert receipt is not None
    assert receipt.dropped_at is not None
    assert lab.receipts.missing(node_id, assigned(lab, node_id).values())
    lab.clock.advance(60)
    await lab.receipts.ensure(node_id, assigned(lab, node_id).values())
    again = lab.receipt(node_id, "db")
    assert again is not None
    assert (again.dropped_at, again.issued_at) == (None, lab.clock.now().timestamp())


async def test_version_that_the_agent_let_go_is_dropped(lab: DispatchLab) -> None:
    node_id, service_id = await issued(lab, "db")
    await lab.receipts.acknowledge(node_id, ack(service_id, lab.key_of("db")), {})
    await lab.rotate("db", b"second")
    await lab.receipts.ensure(node_id, assigned(lab, node_id).values())
    await lab.receipts.acknowledge(node_id, ack(service_id, lab.key_of("db", 2)), {})
    first, second = lab.receipt(node_id, "db", 1), lab.receipt(node_id, "db", 2)
    assert first is not None
    assert second is not None
    assert first.dropped_at is not None
    assert second.acked_at is not None
    assert second.dropped_at is None


async def test_refusal_is_kept_with_the_open_receipt(lab: DispatchLab) -> None:
    node_id, service_id = await issued(lab, "db")
    await lab.receipts.acknowledge(node_id, ack(service_id, error="e" * 1_000), {})
    receipt = lab.receipt(node_id, "db")
    assert receipt is not None
    assert (receipt.error, receipt.acked_at, receipt.dropped_at) == ("e" * 200, None, None)
    assert status(lab).error == "e" * 200


# --- what an agent makes up ---------------------------------------------------------------------


async def test_versions_that_were_never_issued_are_not_believed(lab: DispatchLab) -> None:
    node_id, service_id = await issued(lab, "db")
    await lab.secret("other")
    made_up = (lab.key_of("db"), lab.key_of("db", 7), lab.key_of("other"))
    await lab.receipts.acknowledge(node_id, ack(service_id, *made_up), {})
    assert [(m.secret_id, m.version) for m in status(lab).mounted] == [tuple_of(lab, "db")]
    assert len(lab.view.receipts) == 1


async def drain(lab: DispatchLab) -> None:
    """Take every task off the node of service `red`."""
    await lab.nodes.update(
        lab.context(),
        "node-of-red",
        add_labels={},
        remove_labels=(),
        availability=Availability.DRAIN,
    )
    await lab.settle(lab.duty())


def tuple_of(lab: DispatchLab, name: str) -> tuple[str, int]:
    key = lab.key_of(name)
    return key.secret_id, key.version


async def test_spec_of_the_future_is_not_believed(lab: DispatchLab) -> None:
    """Else this node would count as done in every rollout to come."""
    node_id, service_id = await issued(lab, "db")
    await lab.receipts.acknowledge(node_id, ack(service_id, spec_number=2**60), {})
    assert status(lab).spec_number == 1


async def test_agent_speaks_for_its_own_node_alone(lab: DispatchLab) -> None:
    node_id, service_id = await issued(lab, "db")
    other = await lab.join("other")
    report = wire.Ack(
        PAIR, (wire.ServiceResult(service_id, (lab.key_of("db"),)),), (service_id, "made-up")
    )
    await lab.receipts.acknowledge(other, report, {})
    receipt = lab.receipt(node_id, "db")
    assert receipt is not None
    assert (receipt.acked_at, receipt.dropped_at) == (None, None)
    assert len(lab.view.task_statuses) == 0


async def test_contradicting_reports_of_one_service_end_with_the_last(lab: DispatchLab) -> None:
    node_id, service_id = await issued(lab, "db")
    results = tuple(
        wire.ServiceResult(service_id, mounted) for mounted in ((), (lab.key_of("db"),))
    )
    async with asyncio.timeout(30):
        await lab.receipts.acknowledge(node_id, wire.Ack(PAIR, results), {})
    assert len(status(lab).mounted) == 1


async def test_ack_of_many_versions_is_written_in_pieces(lab: DispatchLab) -> None:
    names = [f"secret-{number}" for number in range(CHANGES_PER_WRITE + 10)]
    node_id, service_id = await issued(lab, *names)
    await lab.receipts.acknowledge(
        node_id, ack(service_id, *(lab.key_of(name) for name in names)), {}
    )
    assert all(stored.record.acked_at is not None for stored in lab.view.receipts.values())
    assert len(status(lab).mounted) == len(names)


# --- two managers -------------------------------------------------------------------------------


@asynccontextmanager
async def lagging_manager(
    lab: DispatchLab, stores: StoreLab
) -> AsyncIterator[tuple[DispatchLab, WatchedEngine]]:
    """Run a second manager whose view stands still."""
    engine = WatchedEngine(stores.engine)
    store = await stores.open("m2", "b2", engine=cast("Engine", engine))
    await store.barrier()
    engine.flowing.clear()
    try:
        yield DispatchLab(stores, store, "m2"), engine
    finally:
        engine.flowing.set()


@pytest.mark.threat("T-09")
@pytest.mark.parametrize("what", ["node", "service", "task"])
async def test_lagging_manager_cannot_issue_after_a_removal(
    lab: DispatchLab, stores: StoreLab, what: str
) -> None:
    node_id = await lab.running("db")
    async with lagging_manager(lab, stores) as (behind, engine):
        before = assigned(behind, node_id)
        if what == "node":
            await lab.evict(node_id)
        elif what == "service":
            await lab.remove_service("red")
        else:
            await drain(lab)
        assert assigned(behind, node_id) == before, "its view shows nothing of it"
        issuing = asyncio.create_task(behind.receipts.ensure(node_id, before.values()))
        await asyncio.sleep(0.1)
        assert not issuing.done()
        engine.flowing.set()
        with pytest.raises(PermissionDenied):
            await issuing
    assert len(lab.view.table(Kind.RECEIPT)) == 0


async def test_receipts_of_many_nodes_are_one_write_and_each_node_has_its_outcome(
    lab: DispatchLab,
) -> None:
    nodes = [await lab.join(f"node-{number}") for number in range(4)]
    await lab.secret("db", b"x")
    await lab.service("red", "db", is_global=True)
    await lab.settle(lab.duty())
    found = [assigned(lab, node_id) for node_id in nodes]
    await lab.evict(nodes[0])
    before = lab.view.revision
    asking = (
        lab.receipts.ensure(node_id, one.values())
        for node_id, one in zip(nodes, found, strict=True)
    )
    refused, *issued_to = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(refused, PermissionDenied)
    assert issued_to == [None] * 3
    assert lab.receipt(nodes[0], "db") is None
    written = [lab.view.receipts.get(one.id) for n in nodes[1:] if (one := lab.receipt(n, "db"))]
    assert {stored.mod_revision for stored in written if stored} == {lab.view.revision}
    assert lab.view.revision > before


async def test_one_node_that_was_moved_meanwhile_does_not_keep_the_others_from_their_receipts(
    lab: DispatchLab, engine: WatchedEngine
) -> None:
    nodes = [await lab.join(f"node-{number}") for number in range(3)]
    await lab.secret("db", b"x")
    await lab.service("red", "db", is_global=True)
    await lab.settle(lab.duty())
    found = [assigned(lab, node_id) for node_id in nodes]
    before = await engine.barrier()
    engine.flowing.clear()
    evicting = asyncio.create_task(lab.evict(nodes[0]))
    while await engine.barrier() == before:  # noqa: ASYNC110  # the engine tells by its revision
        await asyncio.sleep(0.01)
    asking = (
        lab.receipts.ensure(node_id, one.values())
        for node_id, one in zip(nodes, found, strict=True)
    )
    issuing = asyncio.gather(*asking, return_exceptions=True)
    await asyncio.sleep(0)
    engine.flowing.set()
    refused, *issued_to = await issuing
    await evicting
    assert isinstance(refused, PermissionDenied)
    assert issued_to == [None] * 2
    assert [lab.receipt(node_id, "db") is None for node_id in nodes] == [True, False, False]


async def test_acks_of_many_nodes_at_once_are_one_write(lab: DispatchLab) -> None:
    nodes = [await lab.join(f"node-{number}") for number in range(6)]
    await lab.secret("db", b"x")
    await lab.service("red", "db", is_global=True)
    await lab.settle(lab.duty())
    for node_id in nodes:
        await lab.receipts.ensure(node_id, assigned(lab, node_id).values())
    (service_id,) = assigned(lab, nodes[0])
    said = ack(service_id, lab.key_of("db"))
    await asyncio.gather(*(lab.receipts.acknowledge(node_id, said, {}) for node_id in nodes))
    assert len({stored.mod_revision for stored in lab.view.task_statuses.values()}) == 1
    receipts = [lab.receipt(node_id, "db") for node_id in nodes]
    assert all(receipt is not None and receipt.acked_at for receipt in receipts)


async def test_two_sessions_of_a_node_may_ack_at_once(lab: DispatchLab) -> None:
    node_id, service_id = await issued(lab, "db")
    said = ack(service_id, lab.key_of("db"))
    gone = wire.Ack(PAIR, (), (service_id,))
    await asyncio.gather(
        lab.receipts.acknowledge(node_id, said, {}), lab.receipts.acknowledge(node_id, gone, {})
    )
    receipt = lab.receipt(node_id, "db")
    assert receipt is not None
    assert receipt.dropped_at is not None


async def test_what_is_acked_and_dropped_in_one_message_is_dropped(lab: DispatchLab) -> None:
    node_id, service_id = await issued(lab, "db")
    result = wire.ServiceResult(service_id, (lab.key_of("db"),), "", 1)
    await lab.receipts.acknowledge(node_id, wire.Ack(PAIR, (result,), (service_id,)), {})
    receipt = lab.receipt(node_id, "db")
    assert receipt is not None
    assert receipt.dropped_at is not None
