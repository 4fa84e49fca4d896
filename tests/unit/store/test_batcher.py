"""The batcher over a real engine whose answers get lost."""

import asyncio

import pytest

from cluster.protocol.errors import (
    AlreadyExists,
    AuditChainBroken,
    NoQuorum,
    OutcomeUnknown,
    StorageFull,
    Unavailable,
)
from cluster.store import batcher
from cluster.store.audit_chain import read_chain, verify_chain
from cluster.store.records import AuditEntry, AuditRecord
from cluster.store.sealed_store import Create, Replace, SealedStore, Write
from tests.support.stores import StoreLab, UnreliableEngine, node


def entry(resource: str) -> AuditEntry:
    return AuditEntry(at=0.0, caller="c", action="a", resource=resource, allowed=True)


def writing(node_id: str) -> Write:
    return Write((Create(node(node_id)),), audit=(entry(node_id),))


async def links(lab: StoreLab, store: SealedStore) -> list[AuditRecord]:
    """Return every link, after verifying each chain."""
    await store.barrier()
    every = []
    for stream in store.view.audit_streams:
        chain = [link async for link in read_chain(lab.engine, store.keyring, stream)]
        verify_chain(chain)
        every += chain
    return every


def told(records: list[AuditRecord]) -> list[str]:
    return sorted(entry.resource for record in records for entry in record.entries)


async def flaky(lab: StoreLab) -> tuple[UnreliableEngine, SealedStore]:
    engine = UnreliableEngine(lab.engine)
    store = await lab.open(engine=engine)  # type: ignore[arg-type]  # a port by delegation
    return engine, store


async def test_concurrent_writes_share_transactions(lab: StoreLab, store: SealedStore) -> None:
    before = await store.barrier()
    names = [f"n{number:03}" for number in range(200)]
    revisions = await asyncio.gather(*(store.commit(writing(name)) for name in names))
    assert await store.barrier() - before < 20
    assert len(set(revisions)) == await store.barrier() - before
    assert told(await links(lab, store)) == names


async def test_exactly_the_violated_writes_fail(lab: StoreLab, store: SealedStore) -> None:
    await asyncio.gather(*(store.commit(writing(f"n{number}")) for number in range(0, 60, 3)))
    results = await asyncio.gather(
        *(store.commit(writing(f"n{number}")) for number in range(60)), return_exceptions=True
    )
    failed = [number for number, result in enumerate(results) if not isinstance(result, int)]
    assert failed == list(range(0, 60, 3))
    assert all(isinstance(results[number], AlreadyExists) for number in failed)
    # What failed left no link behind.
    assert len(told(await links(lab, store))) == 60


async def test_writes_that_depend_on_each_other_apply_in_some_order(store: SealedStore) -> None:
    await store.commit(writing("n1"))
    stored = store.view.nodes.get("n1")
    assert stored is not None
    rivals = [Write((Replace(stored, node("n1", name=f"r{number}")),)) for number in range(10)]
    results = await asyncio.gather(*map(store.commit, rivals), return_exceptions=True)
    assert sum(isinstance(result, int) for result in results) == 1


async def test_a_lost_answer_is_settled(lab: StoreLab) -> None:
    engine, store = await flaky(lab)
    engine.lose_next = 1
    await store.commit(writing("n1"))
    await store.commit(writing("n2"))
    assert told(await links(lab, store)) == ["n1", "n2"]


async def test_a_lost_transaction_is_sent_again(lab: StoreLab) -> None:
    engine, store = await flaky(lab)
    engine.drop_next = 3
    await store.commit(writing("n1"))
    assert store.view.nodes.get("n1") is not None
    assert told(await links(lab, store)) == ["n1"]


@pytest.mark.parametrize("applied", [True, False])
async def test_an_outcome_that_stays_unknown_is_told_and_the_chain_goes_on(
    lab: StoreLab, monkeypatch: pytest.MonkeyPatch, *, applied: bool
) -> None:
    monkeypatch.setattr(batcher, "SETTLE_RETRY_S", 0.01)
    engine, store = await flaky(lab)
    engine.lose_next, engine.drop_next = (1, 0) if applied else (0, 1)
    engine.unsettled = 5
    with pytest.raises(OutcomeUnknown):
        await store.commit(writing("n1"))
    for number in range(2, 8):
        await store.commit(writing(f"n{number}"))
    async with asyncio.timeout(60):
        await engine.settled.wait()
    await asyncio.gather(*(store.commit(writing(f"m{number}")) for number in range(100)))
    assert ("n1" in told(await links(lab, store))) is applied
    assert ("n1" in store.view.nodes) is applied


async def test_the_other_lane_goes_on_while_one_is_unsettled(lab: StoreLab) -> None:
    engine, store = await flaky(lab)
    engine.drop_next, engine.unsettled = 1, 1_000_000
    with pytest.raises(OutcomeUnknown):
        await store.commit(writing("n1"))
    await asyncio.gather(*(store.commit(writing(f"m{number}")) for number in range(100)))
    assert {record.lane for record in await links(lab, store)} == {1}


async def test_a_write_that_was_never_sent_says_so(
    lab: StoreLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "COMMIT_S", 0.2)
    engine, store = await flaky(lab)
    engine.drop_next, engine.unsettled = 2, 1_000_000
    for number in range(2):
        with pytest.raises(OutcomeUnknown):
            await store.commit(writing(f"n{number}"))
    with pytest.raises(NoQuorum):
        await store.commit(writing("never"))
    engine.unsettled = 0


async def test_a_definite_refusal_reaches_every_writer_and_the_chain_stays(lab: StoreLab) -> None:
    class Full(UnreliableEngine):
        full = True

        async def transact(self, *arguments: object) -> object:  # type: ignore[override]
            if self.full:
                raise StorageFull
            return await lab.engine.transact(*arguments)  # type: ignore[arg-type]

    engine = Full(lab.engine)
    store = await lab.open(engine=engine)  # type: ignore[arg-type]  # a port by delegation
    results = await asyncio.gather(
        *(store.commit(writing(f"n{number}")) for number in range(10)), return_exceptions=True
    )
    assert {type(result) for result in results} == {StorageFull}
    engine.full = False
    await store.commit(writing("n1"))
    assert told(await links(lab, store)) == ["n1"]


async def test_a_caller_that_leaves_harms_nobody(lab: StoreLab, store: SealedStore) -> None:
    leaving = [asyncio.create_task(store.commit(writing(f"l{number}"))) for number in range(50)]
    staying = [asyncio.create_task(store.commit(writing(f"s{number}"))) for number in range(50)]
    await asyncio.sleep(0)
    for task in leaving:
        task.cancel()
    await asyncio.gather(*staying)
    assert len([name for name in told(await links(lab, store)) if name.startswith("s")]) == 50


async def test_another_writer_in_our_chain_is_told(lab: StoreLab) -> None:
    first = await lab.open("m1", "same")
    impostor = await lab.open("m1", "same")
    await asyncio.gather(*(first.commit(writing(f"n{number}")) for number in range(80)))
    with pytest.raises(AuditChainBroken):
        await impostor.commit(writing("x"))
    assert impostor.view.nodes.get("x") is None


async def test_a_closed_store_refuses_and_leaves_nobody_waiting(lab: StoreLab) -> None:
    engine, store = await flaky(lab)
    engine.drop_next, engine.unsettled = 2, 1_000_000
    for number in range(2):
        with pytest.raises(OutcomeUnknown):
            await store.commit(writing(f"n{number}"))
    waiting = asyncio.create_task(store.commit(writing("queued")))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await store.commit(writing("late"))


async def test_a_refusal_alone_is_recorded(lab: StoreLab, store: SealedStore) -> None:
    refusal = AuditEntry(at=0.0, caller="c", action="a", resource="refused", allowed=False)
    await store.commit(Write(audit=(refusal,)))
    assert told(await links(lab, store)) == ["refused"]


async def test_links_tell_every_written_generation(lab: StoreLab, store: SealedStore) -> None:
    await store.commit(writing("n1"))
    stored = store.view.nodes.get("n1")
    assert stored is not None
    await store.commit(Write((Replace(stored, node("n1", name="b")),)))
    key = store.keyring.engine_key("node", "n1")
    records = await links(lab, store)
    assert [e.writes for record in records for e in record.entries] == [((key, 1),)]
    assert [record.writes for record in records if record.writes] == [((key, 2),)]
