"""The check at the start: a stopped engine was changed, and the audit chains tell."""

import pytest

from cluster.engine.seam import Delete
from cluster.protocol.errors import IntegrityError, StoreRolledBack
from cluster.store.audit_chain import read_chain
from cluster.store.records import Kind, NameRecord, NodeRecord
from cluster.store.sealed_store import Create, Remove, Replace, SealedStore, Write
from cluster.store.start_check import check_against_chains
from tests.support.stores import StoreLab, node


async def history(store: SealedStore) -> None:
    """Write, replace, remove and return."""
    name = NameRecord(id="node/a", owner="n1")
    for number in range(10):
        await store.commit(Write((Create(node(f"n{number}")),)))
    await store.commit(Write((Create(name),)))
    stored_name, stored_node = store.view.names.get(name.id), store.view.nodes.get("n0")
    assert stored_name is not None
    assert stored_node is not None
    await store.commit(Write((Remove(stored_name), Remove(stored_node))))
    await store.commit(Write((Create(name),)))


async def revoke(store: SealedStore) -> None:
    stored = store.view.nodes.get("n1")
    assert stored is not None
    revoked = NodeRecord(id="n1", name="n1", created_at=0.0, revoked_at=1.0)
    await store.commit(Write((Replace(stored, revoked),)))


async def faults_at_start(lab: StoreLab) -> list[str]:
    store = await lab.open("m2")
    assert not store.view.faults
    await check_against_chains(store)
    return [kind for kind, _ in store.view.faults]


async def test_an_honest_store_passes(lab: StoreLab, store: SealedStore) -> None:
    await history(store)
    await revoke(store)
    assert await check_against_chains(store) == 14
    assert await faults_at_start(lab) == []


async def test_an_older_state_is_found(lab: StoreLab, store: SealedStore) -> None:
    await history(store)
    key = lab.key(Kind.NODE, "n1")
    old = (await lab.entry(key)).value
    await revoke(store)
    await store.close()
    await lab.put_raw(key, old)
    assert await faults_at_start(lab) == [Kind.NODE]


async def test_a_missing_record_is_found(lab: StoreLab, store: SealedStore) -> None:
    await history(store)
    await store.close()
    await lab.write_raw(Delete(lab.key(Kind.NODE, "n5")))
    assert await faults_at_start(lab) == [Kind.NODE]


async def test_a_removed_record_that_is_back_is_found(lab: StoreLab, store: SealedStore) -> None:
    await store.commit(Write((Create(node("n0")),)))
    old = (await lab.entry(lab.key(Kind.NODE, "n0"))).value
    await store.barrier()
    stored = store.view.nodes.get("n0")
    assert stored is not None
    await store.commit(Write((Remove(stored),)))
    await store.close()
    await lab.put_raw(lab.key(Kind.NODE, "n0"), old)
    assert await faults_at_start(lab) == [Kind.NODE]


@pytest.mark.parametrize("cut", ["first", "middle", "all"])
async def test_a_cut_chain_is_found(lab: StoreLab, store: SealedStore, cut: str) -> None:
    await history(store)
    stream = next(iter(store.view.audit_streams))
    length = len([link async for link in read_chain(lab.engine, lab.keyring, stream)])
    places = {"first": [1], "middle": [2], "all": list(range(1, length + 1))}[cut]
    await store.close()
    await lab.write_raw(*(Delete(lab.keyring.stream_key(stream, place)) for place in places))
    assert "audit" in await faults_at_start(lab)


async def test_a_barrier_notices_an_engine_that_went_back(lab: StoreLab) -> None:
    class Restored:
        back = False

        def __getattr__(self, name: str) -> object:
            return getattr(lab.engine, name)

        async def barrier(self) -> int:
            return 1 if self.back else await lab.engine.barrier()

    engine = Restored()
    store = await lab.open(engine=engine)  # type: ignore[arg-type]  # a port by delegation
    await store.commit(Write((Create(node("n1")),)))
    await store.barrier()
    engine.back = True
    with pytest.raises(StoreRolledBack):
        await store.barrier()
    with pytest.raises(IntegrityError):
        store.view.nodes.get("n1")
