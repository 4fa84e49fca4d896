"""Key epochs: the first keyring, a rotation beside running managers, the end of an old epoch."""

import asyncio

import pytest

from cluster.engine.seam import Delete
from cluster.protocol.errors import AlreadyExists, Conflict, Locked, StaleVersion
from cluster.seal.keyring import Keyring, new_keyring
from cluster.store.key_epochs import (
    bootstrap_store,
    drop_epoch,
    epochs_in_use,
    load_wrapped_keyring,
    reseal,
)
from cluster.store.records import Kind
from cluster.store.sealed_store import Create, Replace, SealedStore, Write
from tests.support.stores import StoreLab, cluster_record, node, secret, value


async def fill(store: SealedStore, count: int) -> None:
    writes = [Write((Create(node(f"n{number}")),)) for number in range(count)]
    writes.append(Write((Create(secret("s", 1)), Create(value("s", 1, b"v")))))
    await asyncio.gather(*map(store.commit, writes))


async def rotate(lab: StoreLab, store: SealedStore) -> int:
    return await store.replace_keyring(store.keyring.with_new_epoch(lab.entropy))


async def trim_audit(lab: StoreLab, store: SealedStore) -> None:
    """Remove the audit links, as trimming behind a checkpoint does."""
    for stream in store.view.audit_streams:
        page = await lab.engine.list_page(store.keyring.stream_prefix(stream))
        await lab.write_raw(*(Delete(entry.key) for entry in page.entries))


async def test_a_store_is_initialised_once(lab: StoreLab) -> None:
    before = await load_wrapped_keyring(lab.engine)
    other = new_keyring(lab.entropy)
    with pytest.raises(AlreadyExists):
        await bootstrap_store(
            lab.engine,
            other,
            other.wrap(lab.root_key, lab.entropy),
            [cluster_record()],
            lab.entropy,
        )
    assert await load_wrapped_keyring(lab.engine) == before


async def test_the_wrapped_keyring_opens_the_store(lab: StoreLab) -> None:
    wrapped = await load_wrapped_keyring(lab.engine)
    assert wrapped is not None
    store = await lab.open(keyring=Keyring.unwrap(lab.root_key, wrapped))
    assert store.cluster == cluster_record()


async def test_every_manager_learns_a_new_epoch(lab: StoreLab) -> None:
    first, second = await lab.open("m1"), await lab.open("m2")
    await fill(first, 5)
    await second.view.wait_for(await rotate(lab, first), 30)
    await second.commit(Write((Create(node("new")),)))
    await first.barrier()
    stored = first.view.nodes.get("new")
    assert stored is not None
    assert stored.epoch == 2
    assert (await lab.open("m3")).view.nodes.get("new") == stored


async def test_writes_in_flight_across_a_rotation_land_under_the_new_epoch(lab: StoreLab) -> None:
    first, second = await lab.open("m1"), await lab.open("m2")
    writes = [Write((Create(node(f"n{number}")),)) for number in range(100)]
    rotation = asyncio.create_task(rotate(lab, first))
    await asyncio.gather(*(second.commit(write) for write in writes), rotation)
    await second.barrier()
    for stored in second.view.nodes.values():
        assert (stored.epoch == 2) is (stored.mod_revision > rotation.result())
    assert second.view.faults == ()


async def test_two_rotations_at_once_do_not_undo_each_other(lab: StoreLab) -> None:
    first, second = await lab.open("m1"), await lab.open("m2")
    results = await asyncio.gather(rotate(lab, first), rotate(lab, second), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["StaleVersion", "int"]
    assert any(isinstance(result, StaleVersion) for result in results)


async def test_resealing_leaves_no_older_record_and_changes_none(lab: StoreLab) -> None:
    store = await lab.open()
    await fill(store, 90)
    before = {stored.record for stored in store.view.join_tokens.values()}
    names = {stored.record.id: stored.record.name for stored in store.view.nodes.values()}
    await rotate(lab, store)
    steps = [done async for done in reseal(store, batch=20)]
    assert len(steps) > 4
    assert {
        s.epoch
        for kind in Kind
        if kind is not Kind.SECRET_VALUE
        for s in store.view.table(kind).values()
    } == {2}
    assert {row.epoch for row in store.view.secret_values.rows.values()} == {2}
    assert {s.record.id: s.record.name for s in store.view.nodes.values()} == names
    assert before == set()
    assert store.open_value("s", 1).reveal() == b"v"  # type: ignore[arg-type]  # plain ids
    assert [done async for done in reseal(store)] == []


async def test_resealing_goes_on_where_it_was_stopped_beside_other_writes(lab: StoreLab) -> None:
    first, second = await lab.open("m1"), await lab.open("m2")
    await fill(first, 50)
    await second.view.wait_for(await rotate(lab, first), 30)
    async for _ in reseal(first, batch=10):
        break

    async def rename() -> None:
        for number in range(50):
            await second.update(
                lambda view, n=number: Write(  # type: ignore[misc]  # mypy cannot infer it
                    (Replace(view.nodes.get(f"n{n}"), node(f"n{n}", name="renamed")),)
                )
            )

    async def go_on() -> None:
        async for _ in reseal(second, batch=10):
            pass

    await asyncio.gather(rename(), go_on())
    await first.barrier()
    assert {s.record.name for s in first.view.nodes.values()} == {"renamed"}
    assert {s.epoch for s in first.view.nodes.values()} == {2}


async def test_an_epoch_is_dropped_once_nothing_needs_it(lab: StoreLab) -> None:
    store, other = await lab.open("m1"), await lab.open("m2")
    await fill(store, 10)
    await rotate(lab, store)
    with pytest.raises(Conflict):
        await drop_epoch(store, 1)
    async for _ in reseal(store):
        pass
    # The links of before the rotation still need it.
    assert await epochs_in_use(store) == {1, 2}
    with pytest.raises(Conflict):
        await drop_epoch(store, 1)
    await trim_audit(lab, store)
    await other.view.wait_for(await drop_epoch(store, 1), 30)
    assert set(other.keyring.epochs) == {2}
    await other.commit(Write((Create(node("after")),)))
    fresh = await lab.open("m3", keyring=other.keyring)
    assert len(fresh.view.nodes) == 11
    assert fresh.view.faults == ()


async def test_a_keyring_that_went_back_is_a_fault(lab: StoreLab) -> None:
    store = await lab.open()
    old = await load_wrapped_keyring(lab.engine)
    assert old is not None
    await rotate(lab, store)
    await store.view.wait_for(await lab.put_raw(b"strongroom/keyring", old), 30)
    assert [kind for kind, _ in store.view.faults] == ["keyring"]
    assert store.keyring.current == 2


async def test_a_manager_without_the_root_key_does_not_replace_the_keyring(lab: StoreLab) -> None:
    lab.root_key, root_key = None, lab.root_key  # type: ignore[assignment]  # opened without it
    store = await lab.open()
    lab.root_key = root_key
    with pytest.raises(Locked):
        await rotate(lab, store)
