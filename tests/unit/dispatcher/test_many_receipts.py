"""Many receipts at once: any number of references is served, and no node spoils another's write."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import cast

import pytest

from cluster.control.service_draft import MAX_REFERENCES, ReferenceDraft
from cluster.control.version_terms import VersionTerms
from cluster.engine.seam import Compare, Engine, Operation, Outcome
from cluster.protocol import wire
from cluster.protocol.errors import StaleVersion, TransactionTooLarge
from cluster.protocol.ids import NodeId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.audit_chain import read_chain
from cluster.store.records import Kind
from cluster.store.sealed_store import Replace, SealedStore, Write
from cluster.store.start_check import check_against_chains
from cluster.store.view import View
from tests.support.stores import StoreLab
from tests.unit.control.lab import drafted
from tests.unit.dispatcher.lab import DispatchLab, Hook, WatchedEngine
from tests.unit.dispatcher.test_receipts import PAIR, assigned

NAMES = [f"secret-{number:02}" for number in range(MAX_REFERENCES)]


class InterruptedEngine(WatchedEngine):
    """Lets a test act before each transaction."""

    before_transaction: Hook | None = None

    async def transact(
        self, request_id: bytes, compares: Sequence[Compare], operations: Sequence[Operation]
    ) -> Outcome:
        """Let the test act, then pass on."""
        if self.before_transaction is not None:
            await self.before_transaction()
        return await super().transact(request_id, compares, operations)


@pytest.fixture
async def interrupted(stores: StoreLab) -> InterruptedEngine:
    return InterruptedEngine(stores.engine)


@pytest.fixture
async def disturbed(stores: StoreLab, interrupted: InterruptedEngine) -> DispatchLab:
    """A dispatcher on an engine at which others come first."""
    store = await stores.open("m1", engine=cast("Engine", interrupted))
    lab = DispatchLab(stores, store)
    await lab.initialise()
    return lab


def issued(lab: DispatchLab, node_id: NodeId) -> int:
    return sum(one.record.dropped_at is None for one in lab.view.receipts_of_node(node_id))


async def own_services(lab: DispatchLab, count: int, *sources: str) -> list[NodeId]:
    """Give each node a service of its own, and the first one's as many secrets as there may be."""
    nodes = [await lab.join(f"node-{number}") for number in range(count)]
    for name in dict.fromkeys(("db", *sources)):
        await lab.secret(name, b"x")
    for number in range(count):
        named = ("db", *sources) if number == 0 else ("db",)
        where = (f"node.name==node-{number}",)
        await lab.service(f"service-{number}", *named, constraints=where)
    await lab.settle(lab.duty())
    return nodes


async def ensured(lab: DispatchLab, nodes: Sequence[NodeId]) -> list[BaseException | None]:
    """Ask for the receipts of all in one moment."""
    found = [assigned(lab, node_id).values() for node_id in nodes]
    asking = (lab.receipts.ensure(*one) for one in zip(nodes, found, strict=True))
    return await asyncio.gather(*asking, return_exceptions=True)


async def test_a_service_with_as_many_references_as_there_may_be_gets_them(
    lab: DispatchLab,
) -> None:
    node_id = await lab.running(*NAMES)
    async with lab.talk(node_id) as talk:
        snapshot = await talk.link.next(wire.Snapshot)
        await talk.carry_out(snapshot)
    assert len(snapshot.services[0].files) == MAX_REFERENCES
    assert set(talk.link.values()) == {name.encode() for name in NAMES}
    receipts = [stored.record for stored in lab.view.receipts_of_node(node_id)]
    assert len(receipts) == MAX_REFERENCES
    assert all(receipt.acked_at is not None for receipt in receipts)


async def test_so_it_does_with_the_previous_version_of_each(lab: DispatchLab) -> None:
    node_id = await lab.running(*NAMES)
    both = tuple(ReferenceDraft(name, previous=True) for name in NAMES)
    where = ("node.name==node-of-red",)
    draft = drafted("red", references=both, constraints=where)
    await lab.services.update(lab.context(), "red", draft)
    for name in NAMES:
        value = SecretBytes(b"new " + name.encode())
        await lab.secrets.rotate(lab.context(), name, value, VersionTerms(overlap_s=60))
    await lab.settle(lab.duty())
    (one,) = assigned(lab, node_id).values()
    assert len(one.files) == 2 * MAX_REFERENCES
    await lab.receipts.ensure(node_id, (one,))
    assert not lab.receipts.missing(node_id, (one,))
    assert issued(lab, node_id) == 2 * MAX_REFERENCES


async def test_what_is_missing_by_the_time_of_the_decision_was_not_reckoned_with(
    lab: DispatchLab, engine: WatchedEngine
) -> None:
    """One node drops all it has while a write for several is decided again: nobody fails."""
    nodes = await own_services(lab, 4, *NAMES[:58])
    dropping = nodes[0]
    (found,) = assigned(lab, dropping).values()
    await lab.receipts.ensure(dropping, (found,))
    await lab.rotate("db", b"second")
    engine.flowing.clear()
    dropped = wire.Ack(PAIR, (), (found.service_id,))
    unseen = [
        await committed(engine, lab.receipts.acknowledge(dropping, dropped, {})),
        await committed(engine, lab.rotate("db", b"third")),
    ]
    asking = asyncio.create_task(ensured(lab, nodes))
    await asyncio.sleep(0)
    engine.flowing.set()
    assert await asking == [None] * 4
    await asyncio.gather(*unseen)
    assert all(lab.receipt(nodes[n], "db", 2, f"service-{n}") for n in range(4))


async def committed(
    engine: WatchedEngine, change: Coroutine[object, object, None]
) -> asyncio.Task[None]:
    """Return once the engine has a change that the view does not show."""
    before = await engine.barrier()
    changing = asyncio.create_task(change)
    while await engine.barrier() == before:  # noqa: ASYNC110  # the engine tells by its revision
        await asyncio.sleep(0.01)
    return changing


async def test_a_node_whose_records_keep_changing_holds_up_no_other(
    disturbed: DispatchLab, interrupted: InterruptedEngine, stores: StoreLab
) -> None:
    nodes = await own_services(disturbed, 3)
    other = await stores.open("m2", "b2")
    interrupted.before_transaction = changing(other, nodes[0])
    restless, *still = await ensured(disturbed, nodes)
    interrupted.before_transaction = None
    assert isinstance(restless, StaleVersion)
    assert still == [None] * 2
    assert [issued(disturbed, node_id) for node_id in nodes] == [0, 1, 1]
    assert await ensured(disturbed, nodes) == [None] * 3


def changing(store: SealedStore, node_id: NodeId) -> Hook:
    """Return what writes a node's record anew, as another manager does."""

    def decide(view: View) -> Write:
        stored = view.nodes.get(node_id)
        assert stored is not None
        return Write((Replace(stored, stored.record),))

    async def change() -> None:
        await store.update(decide)

    return change


async def test_a_write_that_the_engine_finds_too_large_does_not_end_the_session(
    disturbed: DispatchLab, interrupted: InterruptedEngine, stores: StoreLab
) -> None:
    node_id = await disturbed.running("db")
    other = DispatchLab(stores, await stores.open("m2", "b2"), "m2")
    refused = asyncio.Event()

    async def too_large() -> None:
        refused.set()
        raise TransactionTooLarge

    async with disturbed.talk(node_id) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))
        interrupted.before_transaction = too_large
        await other.rotate("db", b"second")
        await asyncio.wait_for(refused.wait(), 30)
        interrupted.before_transaction = None
        delta = await talk.link.next(wire.Delta)
    assert [file.version for one in delta.changed for file in one.files] == [2]


async def test_each_nodes_audit_entry_tells_of_its_own_receipts(
    lab: DispatchLab, stores: StoreLab
) -> None:
    nodes = await own_services(lab, 3, "other")
    assert await ensured(lab, nodes) == [None] * 3
    keyring = lab.store.keyring
    told: dict[str, set[bytes]] = {}
    for stream in lab.view.audit_streams.values():
        async for link in read_chain(stores.engine, keyring, stream.record.id):
            issues = [entry for entry in link.entries if entry.action == "secret.issue"]
            told.update((one.caller, {key for key, _ in one.writes}) for one in issues)
    assert told == {
        f"node/{node_id}": {
            keyring.engine_key(Kind.RECEIPT, stored.record.id)
            for stored in lab.view.receipts_of_node(node_id)
        }
        for node_id in nodes
    }
    await check_against_chains(lab.store)
    assert not lab.view.faults
