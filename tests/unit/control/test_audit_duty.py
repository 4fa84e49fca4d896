"""The audit duty: the audit stays bounded, and key epochs go when nothing needs them."""

from pathlib import Path

import pytest

from cluster.control.audit_duty import AuditDuty, TrimLimits
from cluster.control.policy import Principal, Role
from cluster.engine.seam import Compare, Delete
from cluster.protocol.errors import Conflict, IntegrityError
from cluster.protocol.identity import Kind as IdentityKind
from cluster.protocol.identity import SpiffeId
from cluster.protocol.ids import ManagerId
from cluster.store.audit_chain import read_chain
from cluster.store.audit_export import ExportReader
from cluster.store.audit_trim import AuditTrim
from cluster.store.key_epochs import reseal
from cluster.store.records import Kind
from cluster.store.sealed_store import Create, Replace, SealedStore, Write
from cluster.store.start_check import check_against_chains, checkpoint_of
from tests.support.stores import StoreLab, node
from tests.unit.control.lab import MANAGER, TRUST_DOMAIN

NEVER = TrimLimits(links=1_000_000, share=1.0)


@pytest.fixture
async def store(stores: StoreLab) -> SealedStore:
    return await stores.open(MANAGER)


def duty_of(
    stores: StoreLab,
    store: SealedStore,
    directory: Path,
    limits: TrimLimits | None = None,
    guards: tuple[Compare, ...] = (),
) -> AuditDuty:
    identity = SpiffeId(TRUST_DOMAIN, IdentityKind.MANAGER, MANAGER)
    principal = Principal(identity, str(identity), Role.MANAGER)
    trim = AuditTrim(store, stores.clock, stores.entropy, directory / "audit", ManagerId(MANAGER))
    return AuditDuty(trim, stores.clock, principal, guards, limits)


async def write(store: SealedStore, count: int) -> None:
    """Write one record `count` times, one transaction each."""
    for number in range(count):
        stored = store.view.nodes.get("n1")
        record = node("n1", name=f"n1-{number}")
        await store.commit(Write((Create(record) if stored is None else Replace(stored, record),)))


async def count_links(stores: StoreLab, store: SealedStore) -> int:
    pages = [
        await stores.engine.list_page(store.keyring.stream_prefix(stream), limit=10_000)
        for stream in store.view.audit_streams
    ]
    return sum(len(page.entries) for page in pages)


async def faults(stores: StoreLab) -> set[str]:
    fresh = await stores.open("m9", "fresh")
    await check_against_chains(fresh)
    return {kind for kind, _ in fresh.view.faults}


async def test_many_transactions_keep_the_links_bounded(
    stores: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    duty = duty_of(stores, store, tmp_path, TrimLimits(links=200))
    most = 0
    for _ in range(60):
        await write(store, 50)
        most = max(most, await count_links(stores, store))
        await duty.look()
    assert most < 300
    checkpoint = checkpoint_of(store)
    assert checkpoint is not None
    assert checkpoint.number > 10
    assert await faults(stores) == set()
    kept = [
        link
        for path in (tmp_path / "audit").iterdir()
        for link in ExportReader(path, stores.root_key).links()
    ]
    assert len(kept) + await count_links(stores, store) > 3_000


async def test_nothing_is_trimmed_before_its_time(
    stores: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    await write(store, 20)
    await duty_of(stores, store, tmp_path, NEVER).look()
    assert checkpoint_of(store) is None
    assert not (tmp_path / "audit").exists()


async def test_a_share_of_the_quota_is_enough(
    stores: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    await write(store, 20)
    await duty_of(stores, store, tmp_path, TrimLimits(share=0.000_001)).look()
    assert checkpoint_of(store) is not None


async def rotate(stores: StoreLab, store: SealedStore) -> None:
    await store.replace_keyring(store.keyring.with_new_epoch(stores.entropy))


async def test_an_old_epoch_goes_once_its_records_are_resealed(
    stores: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    duty = duty_of(stores, store, tmp_path, NEVER)
    await write(store, 10)
    await rotate(stores, store)
    await duty.look()
    # Records still lie under it: neither goes the epoch, nor are links trimmed in vain.
    assert set(store.keyring.epochs) == {1, 2}
    assert checkpoint_of(store) is None
    async for _ in reseal(store):
        pass
    await duty.look()
    assert set(store.keyring.epochs) == {2}
    fresh = await stores.open("m2", "b2", keyring=store.keyring)
    await check_against_chains(fresh)
    assert fresh.view.faults == ()
    (path,) = (tmp_path / "audit").iterdir()
    assert sum(1 for _ in ExportReader(path, stores.root_key).links()) > 10


async def test_old_epochs_go_all_at_once_and_their_end_is_on_record(
    stores: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    for _ in range(3):
        await write(store, 3)
        await rotate(stores, store)
    async for _ in reseal(store):
        pass
    await duty_of(stores, store, tmp_path, NEVER).look()
    assert set(store.keyring.epochs) == {4}
    dropped = [
        entry.detail
        for stream in store.view.audit_streams
        async for link in read_chain(stores.engine, store.keyring, stream)
        for entry in link.entries
        if entry.action == "key.drop"
    ]
    assert sorted(dropped) == ["1", "2", "3"]


async def test_a_store_with_a_fault_is_left_as_it_is(
    stores: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    await write(store, 20)
    await stores.write_raw(Delete(stores.key(Kind.NODE, "n1")))
    await store.barrier()
    duty = duty_of(stores, store, tmp_path, TrimLimits(links=1))
    with pytest.raises(IntegrityError):
        await duty.look()
    assert [kind for kind, _ in store.view.faults] == [Kind.NODE]
    assert checkpoint_of(store) is None
    assert await count_links(stores, store) >= 20


async def test_the_duty_outlives_a_store_with_a_fault_and_a_disk_in_the_way(
    stores: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    await write(store, 20)
    (tmp_path / "audit").write_text("in the way")
    duty = duty_of(stores, store, tmp_path, TrimLimits(links=1))
    await duty._try_look()
    assert checkpoint_of(store) is None
    (tmp_path / "audit").unlink()
    await duty._try_look()
    checkpoint = checkpoint_of(store)
    assert checkpoint is not None
    await write(store, 20)
    await stores.write_raw(Delete(stores.key(Kind.NODE, "n1")))
    await store.barrier()
    for _ in range(2):
        await duty._try_look()
    assert checkpoint_of(store) == checkpoint
    assert [kind for kind, _ in store.view.faults] == [Kind.NODE]


async def test_the_duty_ends_where_another_holds_it(
    stores: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    await write(store, 20)
    leadership = await stores.engine.campaign("placement", MANAGER, 5.0)
    await leadership.resign()
    duty = duty_of(stores, store, tmp_path, TrimLimits(links=1), (leadership.guard,))
    with pytest.raises(Conflict):
        await duty._try_look()
    assert checkpoint_of(store) is None
