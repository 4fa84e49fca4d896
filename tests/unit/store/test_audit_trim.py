"""Trimming the audit: what leaves the store is in the export, and the start check still tells."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from cluster.engine.seam import Delete, Engine, Operation, Outcome, Page
from cluster.protocol.errors import AuditChainBroken, Conflict, Unavailable
from cluster.protocol.ids import ManagerId
from cluster.store.audit_chain import read_chain
from cluster.store.audit_export import PART, ExportReader
from cluster.store.audit_trim import AuditTrim
from cluster.store.records import (
    CHECKPOINT_ID,
    AuditCheckpointRecord,
    AuditEntry,
    AuditRecord,
    Kind,
    ManagerRecord,
    ManagerState,
    NameRecord,
)
from cluster.store.sealed_store import Create, Remove, Replace, SealedStore, Write
from cluster.store.start_check import check_against_chains, checkpoint_of
from tests.support.etcd_cluster import etcd_cluster
from tests.support.stores import StoreLab, initialised, node

MANAGER = ManagerId("m1")


def describe(detail: str) -> AuditEntry:
    return AuditEntry(
        at=0.0, caller="m1", action="audit.trim", resource="audit", allowed=True, detail=detail
    )


def trimmer(lab: StoreLab, store: SealedStore, directory: Path) -> AuditTrim:
    return AuditTrim(store, lab.clock, lab.entropy, directory / "audit", MANAGER)


async def trim(lab: StoreLab, store: SealedStore, directory: Path) -> AuditCheckpointRecord:
    return await trimmer(lab, store, directory).trim((), describe)


async def nodes(store: SealedStore, *names: str) -> None:
    for name in names:
        await store.commit(Write((Create(node(name)),)))


async def rename(store: SealedStore, name: str) -> None:
    stored = store.view.nodes.get(name)
    assert stored is not None
    await store.commit(Write((Replace(stored, node(name, name="renamed")),)))


async def remove(store: SealedStore, name: str) -> None:
    stored = store.view.nodes.get(name)
    assert stored is not None
    await store.commit(Write((Remove(stored),)))


async def links(lab: StoreLab, store: SealedStore) -> dict[tuple[str, int], AuditRecord]:
    """Return every link in the store."""
    await store.barrier()
    return {
        (stream, link.sequence): link
        for stream in store.view.audit_streams
        async for link in read_chain(lab.engine, store.keyring, stream)
    }


def exported(lab: StoreLab, directory: Path) -> dict[tuple[str, int], AuditRecord]:
    """Return every link in the exports, each verified behind the one before."""
    found = {}
    behind = None
    for path in sorted((directory / "audit").glob("*.links")):
        reader = ExportReader(path, lab.root_key, behind)
        for link in reader.links():
            found[f"audit/{link.manager_id}/{link.boot}/{link.lane}", link.sequence] = link
        behind = reader.checkpoint
    return found


async def faults(lab: StoreLab) -> set[str]:
    """Return the kinds that a manager which starts now finds fault with."""
    store = await lab.open("m9", "fresh")
    await check_against_chains(store)
    await store.close()
    return {kind for kind, _ in store.view.faults}


async def test_what_is_trimmed_is_in_the_export_and_the_rest_in_the_store(
    lab: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    await nodes(store, *(f"n{number}" for number in range(20)))
    before = await links(lab, store)
    checkpoint = await trim(lab, store, tmp_path)
    assert exported(lab, tmp_path) == before
    left = await links(lab, store)
    assert not left.keys() & before.keys()
    assert any(entry.action == "audit.trim" for link in left.values() for entry in link.entries)
    assert checkpoint == checkpoint_of(store)
    assert await faults(lab) == set()


async def test_trimming_goes_on_behind_its_own_checkpoint(
    lab: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    seen: dict[tuple[str, int], AuditRecord] = {}
    for round_number in range(4):
        await nodes(store, *(f"n{round_number}-{number}" for number in range(10)))
        await rename(store, f"n{round_number}-1")
        await remove(store, f"n{round_number}-2")
        seen |= await links(lab, store)
        await trim(lab, store, tmp_path)
        assert await faults(lab) == set()
    assert exported(lab, tmp_path) == seen
    assert len(store.view.audit_summaries) == 1
    stored = store.view.audit_checkpoints.get(CHECKPOINT_ID)
    assert stored is not None
    assert stored.record.number == 4


async def test_an_export_shows_nothing_and_belongs_to_its_owner_alone(
    lab: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    entry = AuditEntry(at=0.0, caller="CANARY", action="a", resource="r", allowed=True)
    await store.commit(Write((Create(node("n1")),), (entry,)))
    await trim(lab, store, tmp_path)
    (path,) = (tmp_path / "audit").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert b"CANARY" not in path.read_bytes()
    assert "CANARY" in {e.caller for link in exported(lab, tmp_path).values() for e in link.entries}


@pytest.mark.parametrize("damage", ["cut", "flipped", "grown"])
async def test_a_damaged_export_is_not_believed(
    lab: StoreLab, store: SealedStore, tmp_path: Path, damage: str
) -> None:
    await nodes(store, "n1", "n2", "n3")
    await trim(lab, store, tmp_path)
    (path,) = (tmp_path / "audit").iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    changed = {
        "cut": whole[:middle],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "grown": whole + b"\x00",
    }
    path.write_bytes(changed[damage])
    with pytest.raises(AuditChainBroken):
        list(ExportReader(path, lab.root_key).links())


# --- what a start finds in a store that was trimmed and then changed ---


async def trimmed_history(lab: StoreLab, store: SealedStore, directory: Path) -> dict[str, bytes]:
    """Write, trim, write again; return earlier states of the nodes as they lay in the engine."""
    await nodes(store, "old", "gone", "kept", "later")
    states = {
        name: (await lab.entry(lab.key(Kind.NODE, name))).value for name in ("old", "gone", "later")
    }
    await rename(store, "old")
    await remove(store, "gone")
    await trim(lab, store, directory)
    await rename(store, "later")
    await store.close()
    return states


@pytest.mark.parametrize("name", ["old", "gone", "later"])
async def test_an_old_state_is_found_after_a_trim(
    lab: StoreLab, store: SealedStore, tmp_path: Path, name: str
) -> None:
    states = await trimmed_history(lab, store, tmp_path)
    assert await faults(lab) == set()
    await lab.put_raw(lab.key(Kind.NODE, name), states[name])
    assert await faults(lab) == {Kind.NODE}


@pytest.mark.parametrize("name", ["old", "kept", "later"])
async def test_a_missing_record_is_found_after_a_trim(
    lab: StoreLab, store: SealedStore, tmp_path: Path, name: str
) -> None:
    await trimmed_history(lab, store, tmp_path)
    await lab.write_raw(Delete(lab.key(Kind.NODE, name)))
    assert await faults(lab) == {Kind.NODE}


async def test_a_link_cut_behind_the_checkpoint_is_found(
    lab: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    await nodes(store, "n1", "n2")
    await trim(lab, store, tmp_path)
    await nodes(store, *(f"m{number}" for number in range(8)))
    first = min(await links(lab, store))
    await store.close()
    await lab.write_raw(Delete(lab.keyring.stream_key(*first)))
    assert "audit" in await faults(lab)


async def test_the_newest_links_cut_without_what_they_told_are_found(
    lab: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    await nodes(store, "n1")
    await trim(lab, store, tmp_path)
    await rename(store, "n1")
    newest = {stream: sequence for stream, sequence in sorted(await links(lab, store))}  # noqa: C416  # the last of each stream
    await store.close()
    await lab.write_raw(*(Delete(lab.keyring.stream_key(*last)) for last in newest.items()))
    assert Kind.NODE in await faults(lab)


async def test_a_checkpoint_that_went_back_is_found(
    lab: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    await nodes(store, "n1")
    await trim(lab, store, tmp_path)
    key = lab.key(Kind.AUDIT_CHECKPOINT, CHECKPOINT_ID)
    old = (await lab.entry(key)).value
    await nodes(store, "n2")
    await trim(lab, store, tmp_path)
    await store.close()
    await lab.put_raw(key, old)
    assert "audit" in await faults(lab)


@pytest.mark.parametrize("kind", [Kind.AUDIT_CHECKPOINT, Kind.AUDIT_SUMMARY])
async def test_a_removed_checkpoint_or_summary_is_found(
    lab: StoreLab, store: SealedStore, tmp_path: Path, kind: Kind
) -> None:
    await nodes(store, "n1")
    await trim(lab, store, tmp_path)
    (record_id,) = store.view.table(kind)
    await store.close()
    await lab.write_raw(Delete(lab.key(kind, record_id)))
    assert "audit" in await faults(lab)


async def test_a_store_that_was_changed_is_not_trimmed(
    lab: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    await nodes(store, "n1")
    old = (await lab.entry(lab.key(Kind.NODE, "n1"))).value
    await rename(store, "n1")
    await store.close()
    await lab.put_raw(lab.key(Kind.NODE, "n1"), old)
    fresh = await lab.open("m2", "b2")
    before = await links(lab, fresh)
    with pytest.raises(AuditChainBroken):
        await trim(lab, fresh, tmp_path)
    assert [kind for kind, _ in fresh.view.faults] == [Kind.NODE]
    assert (await links(lab, fresh)).items() >= before.items()
    assert list((tmp_path / "audit").iterdir()) == []


# --- stopped at any step ---


class Stopped(Exception):  # noqa: N818  # stands for the end of the process
    """The manager died."""


class DyingEngine:
    """A port to a real engine that dies before or after its n-th transaction from now."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.left = -1
        self.after = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    async def transact(
        self, request_id: bytes, compares: tuple[object, ...], operations: tuple[Operation, ...]
    ) -> Outcome:
        """Pass on, until the end."""
        transact: Callable[..., Awaitable[Outcome]] = self._engine.transact
        if self.left == 0:
            if self.after:
                await transact(request_id, compares, operations)
            raise Stopped
        self.left -= 1
        return await transact(request_id, compares, operations)


async def die_at(lab: StoreLab, directory: Path, step: int, *, after: bool) -> bool:
    """Trim until the engine's `step`-th transaction; return whether it died there."""
    engine = DyingEngine(lab.engine)
    store = await lab.open("m1", f"dying-{step}-{after}", engine=engine)  # type: ignore[arg-type]  # a port by delegation
    engine.left, engine.after = step, after
    work = asyncio.create_task(trim(lab, store, directory))
    end = asyncio.create_task(store.failure())
    await asyncio.wait((work, end), return_when=asyncio.FIRST_COMPLETED)
    died = not work.done() or work.exception() is not None
    for task in (work, end):
        task.cancel()
    await asyncio.gather(work, end, return_exceptions=True)
    await store.close()
    return died


@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_at_any_step_loses_no_link_and_the_next_goes_on(
    lab: StoreLab, store: SealedStore, tmp_path: Path, after: bool
) -> None:
    await nodes(store, *(f"n{number}" for number in range(30)))
    await remove(store, "n3")
    first = await links(lab, store)
    await store.close()
    step = 0
    while await die_at(lab, tmp_path, step, after=after):
        step += 1
        survivor = await lab.open("m2", f"after-{step}")
        here, there = await links(lab, survivor), exported_anywhere(lab, tmp_path)
        assert first.items() <= (here | there).items()
        assert await faults(lab) == set()
        await survivor.close()
    assert step > 3
    last = await lab.open("m3", "last")
    await trim(lab, last, tmp_path)
    assert not first.keys() & (await links(lab, last)).keys()
    assert not list((tmp_path / "audit").glob(f"*{PART}"))
    assert len(last.view.audit_summaries) == 1
    assert await faults(lab) == set()


def exported_anywhere(lab: StoreLab, directory: Path) -> dict[tuple[str, int], AuditRecord]:
    """Return the links of every whole file, those of trims that were not completed among them."""
    return {
        (f"audit/{link.manager_id}/{link.boot}/{link.lane}", link.sequence): link
        for path in (directory / "audit").glob("*.links")
        for link in ExportReader(path, lab.root_key).links()
    }


async def test_an_export_that_cannot_be_written_trims_nothing(
    lab: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    await nodes(store, "n1")
    before = await links(lab, store)
    (tmp_path / "audit").write_text("in the way")
    with pytest.raises(Unavailable):
        await trim(lab, store, tmp_path)
    assert await links(lab, store) == before
    assert checkpoint_of(store) is None


async def test_who_lost_the_duty_trims_nothing(
    lab: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    await nodes(store, "n1")
    duty = await lab.engine.campaign("placement", "m1", 5.0)
    await duty.resign()
    before = await links(lab, store)
    with pytest.raises(Conflict):
        await trimmer(lab, store, tmp_path).trim((duty.guard,), describe)
    assert (await links(lab, store)).items() >= before.items()
    assert checkpoint_of(store) is None


# --- chains that ended, growth ---


async def boots(store: SealedStore) -> set[str]:
    await store.barrier()
    return {stored.record.boot for stored in store.view.audit_streams.values()}


async def test_chains_of_earlier_boots_go_and_those_of_idle_managers_stay(
    lab: StoreLab, tmp_path: Path
) -> None:
    idle = await lab.open("m2", "idle")
    await nodes(idle, "a")
    first = await lab.open("m1", "first")
    await nodes(first, "b")
    await trim(lab, first, tmp_path)
    await first.close()
    second = await lab.open("m1", "second")
    await nodes(second, "c")
    for _ in range(2):  # the first of them finds the links of the trim before
        await trim(lab, second, tmp_path)
    assert await boots(second) == {"idle", "second"}
    await nodes(idle, "d")
    await trim(lab, second, tmp_path)
    assert await faults(lab) == set()
    assert {"idle", "second"} <= await boots(second)


async def test_chains_of_a_removed_manager_go(
    lab: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    removed = ManagerRecord(
        id="m2",
        name="second",
        state=ManagerState.REMOVED,
        api_address="127.0.0.1:1",
        join_address="127.0.0.1:2",
        joined_at=0.0,
    )
    other = await lab.open("m2", "other")
    await nodes(other, "a")
    await store.barrier()
    await trim(lab, store, tmp_path)
    await store.commit(Write((Create(removed),)))
    await trim(lab, store, tmp_path)
    assert await boots(store) == {"b1"}
    assert await faults(lab) == set()


async def test_growth_is_counted_behind_the_checkpoint_only(
    lab: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    trim_here = trimmer(lab, store, tmp_path)
    await nodes(store, *(f"n{number}" for number in range(12)))
    for _ in range(2):
        growth = await trim_here.measure()
        assert (growth.links, growth.epochs) == (12, {1})
    assert growth.size_bytes > 12 * 256
    await trim_here.trim((), describe)
    assert (await trim_here.measure()).links == len(await links(lab, store))


class InterruptedEngine:
    """A port to a real engine: something happens before the next page is listed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.before_page: Callable[[], Awaitable[object]] | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    async def list_page(self, prefix: bytes, **options: object) -> Page:
        """Let it happen, then pass on."""
        if self.before_page is not None:
            before, self.before_page = self.before_page, None
            await before()
        list_page: Callable[..., Awaitable[Page]] = self._engine.list_page
        return await list_page(prefix, **options)


async def test_links_trimmed_under_the_eyes_of_a_check_are_no_fault(
    lab: StoreLab, store: SealedStore, tmp_path: Path
) -> None:
    engine = InterruptedEngine(lab.engine)
    other = await lab.open("m2", "b2", engine=engine)  # type: ignore[arg-type]  # a port by delegation
    await nodes(store, *(f"n{number}" for number in range(20)))
    await other.barrier()
    engine.before_page = lambda: trim(lab, store, tmp_path)
    assert await check_against_chains(other) < 20
    assert checkpoint_of(store) is not None
    assert other.view.faults == ()


@pytest.fixture
async def etcd_lab(tmp_path: Path, seed: int) -> AsyncIterator[StoreLab]:
    async with etcd_cluster(tmp_path) as (member,):
        lab = await initialised(member.engine, seed)
        yield lab
        await lab.close()


async def test_trimming_on_etcd(etcd_lab: StoreLab, tmp_path: Path) -> None:
    store = await etcd_lab.open()
    duty = await etcd_lab.engine.campaign("placement", "m1", 10.0)
    await nodes(store, *(f"n{number}" for number in range(130)))
    await store.commit(Write((Create(NameRecord(id="node/a", owner="n1")),)))
    before = await links(etcd_lab, store)
    await trimmer(etcd_lab, store, tmp_path).trim((duty.guard,), describe)
    assert exported(etcd_lab, tmp_path) == before
    assert not (await links(etcd_lab, store)).keys() & before.keys()
    old = await etcd_lab.entry(etcd_lab.key(Kind.NODE, "n1"))
    await rename(store, "n1")
    assert await faults(etcd_lab) == set()
    await etcd_lab.put_raw(old.key, old.value)
    assert await faults(etcd_lab) == {Kind.NODE}
    await duty.resign()
