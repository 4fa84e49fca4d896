"""The sealed store over a real engine: conditions, visibility, values, ciphertext only."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cluster.engine.seam import Outcome
from cluster.engine.sqlite import SqliteEngine
from cluster.protocol.errors import (
    AlreadyExists,
    Conflict,
    InvariantViolation,
    StaleVersion,
    TransactionTooLarge,
    Unavailable,
    VersionNotFound,
)
from cluster.store.records import AuditEntry, Kind, NameRecord, NodeRecord, name_id
from cluster.store.sealed_store import (
    Create,
    Remove,
    Replace,
    Require,
    RequireAbsent,
    SealedStore,
    Write,
)
from cluster.store.view import RecordChange, Stored, View
from tests.support.clock import ManualClock
from tests.support.stores import StoreLab, node, secret, value

WAIT_S = 30.0


async def created(store: SealedStore, record: NodeRecord) -> Stored[NodeRecord]:
    await store.commit(Write((Create(record),)))
    stored = store.view.nodes.get(record.id)
    assert stored is not None
    return stored


async def test_a_committed_record_is_in_the_view_at_once(store: SealedStore) -> None:
    revision = await store.commit(Write((Create(node("n1")),)))
    assert store.view.revision >= revision
    assert store.view.nodes.get("n1") == Stored(node("n1"), 1, revision, 1)


async def test_a_second_manager_shows_it_after_waiting_for_the_revision(lab: StoreLab) -> None:
    first, second = await lab.open("m1"), await lab.open("m2")
    for number in range(20):
        revision = await first.commit(Write((Create(node(f"n{number}")),)))
        await second.view.wait_for(revision, WAIT_S)
        assert second.view.nodes.get(f"n{number}") is not None


async def test_a_store_opened_later_shows_what_was_written(lab: StoreLab) -> None:
    first = await lab.open("m1")
    await first.commit(Write((Create(secret("s", 1)), Create(value("s", 1, b"v")))))
    second = await lab.open("m2")
    assert second.view.secrets.get("s") == first.view.secrets.get("s")
    assert second.open_value("s", 1).reveal() == b"v"  # type: ignore[arg-type]  # plain ids
    assert second.incarnation.unique == "first"


async def test_replacing_raises_the_generation_by_one(store: SealedStore) -> None:
    stored = await created(store, node("n1"))
    renamed = msgspec.structs.replace(stored.record, name="other")
    await store.commit(Write((Replace(stored, renamed),)))
    now = store.view.nodes.get("n1")
    assert now is not None
    assert (now.record.name, now.generation) == ("other", stored.generation + 1)


async def test_a_stale_replacement_is_refused_and_tells_where_to_look(lab: StoreLab) -> None:
    first, second = await lab.open("m1"), await lab.open("m2")
    stored = await created(first, node("n1"))
    newer = await second.update(
        lambda view: Write((Replace(view.nodes.get("n1") or stored, node("n1", name="b")),))
    )
    with pytest.raises(StaleVersion) as caught:
        await first.commit(Write((Replace(stored, node("n1", name="c")),)))
    assert caught.value.revision == newer
    current = first.view.nodes.get("n1") if first.view.revision >= newer else None
    await first.view.wait_for(newer, WAIT_S)
    current = first.view.nodes.get("n1")
    assert current is not None
    assert current.record.name == "b"


async def test_creating_what_exists_is_told_apart(store: SealedStore) -> None:
    stored = await created(store, node("n1"))
    with pytest.raises(AlreadyExists) as caught:
        await store.commit(Write((Create(node("n1")),)))
    assert caught.value.revision == stored.mod_revision


async def test_what_was_removed_cannot_be_replaced(lab: StoreLab) -> None:
    first, second = await lab.open("m1"), await lab.open("m2")
    stored = await created(first, node("n1"))
    await second.view.wait_for(stored.mod_revision, WAIT_S)
    removal = await second.commit(Write((Remove(stored),)))
    with pytest.raises(StaleVersion) as caught:
        await first.commit(Write((Replace(stored, node("n1", name="c")),)))
    # A removal has no revision of its own to meet: what is told lies behind it all the same.
    assert caught.value.revision >= removal
    assert first.view.nodes.get("n1") is None


@pytest.mark.parametrize("changed", ["required", "absent"])
async def test_a_write_whose_requirement_fails_changes_nothing(
    store: SealedStore, changed: str
) -> None:
    stored = await created(store, node("n1"))
    await store.commit(Write((Replace(stored, node("n1", name="b")),)))
    wrong = Require(stored) if changed == "required" else RequireAbsent(Kind.NODE, "n1")
    with pytest.raises(StaleVersion):
        await store.commit(Write((wrong, Create(node("n2")))))
    assert store.view.nodes.get("n2") is None
    fresh = store.view.nodes.get("n1")
    assert fresh is not None
    await store.commit(Write((Require(fresh), RequireAbsent(Kind.NODE, "x"), Create(node("n2")))))
    assert store.view.nodes.get("n2") is not None


async def test_update_decides_again_until_it_holds(lab: StoreLab) -> None:
    first, second = await lab.open("m1"), await lab.open("m2")
    await created(first, node("n1"))

    def relabel(view: View) -> Write:
        stored = view.nodes.get("n1")
        assert stored is not None
        count = int(stored.record.labels.get("count", "0"))
        record = msgspec.structs.replace(stored.record, labels={"count": str(count + 1)})
        return Write((Replace(stored, record),))

    await second.barrier()
    stores = [first, second] * 10
    await asyncio.gather(*(store.update(relabel, attempts=100) for store in stores))
    await first.barrier()
    final = first.view.nodes.get("n1")
    assert final is not None
    assert final.record.labels == {"count": "20"}


async def test_many_updates_of_one_record_all_come_through(store: SealedStore) -> None:
    await created(store, node("n1", name="0"))

    def count(view: View) -> Write:
        stored = view.nodes.get("n1")
        assert stored is not None
        return Write((Replace(stored, node("n1", name=str(int(stored.record.name) + 1))),))

    await asyncio.gather(*(store.update(count) for _ in range(60)))
    final = store.view.nodes.get("n1")
    assert final is not None
    assert final.record.name == "60"


async def test_an_update_outlasts_those_who_come_before_it(lab: StoreLab) -> None:
    """Other managers and new callers take no turns with it: it may lose many times by chance."""
    rival = await lab.open("m1")
    await created(rival, node("n1", name="0"))
    lost: list[int] = []

    def count(view: View) -> Write:
        stored = view.nodes.get("n1")
        assert stored is not None
        return Write((Replace(stored, node("n1", name=str(int(stored.record.name) + 1))),))

    class Overtaken:
        def __getattr__(self, name: str) -> object:
            return getattr(lab.engine, name)

        async def transact(self, *arguments: Any) -> Outcome:  # noqa: ANN401  # handed on
            if len(lost) < 20:
                lost.append(await rival.commit(count(rival.view)))
            return await lab.engine.transact(*arguments)

    store = await lab.open("m2", engine=Overtaken())  # type: ignore[arg-type]  # a port by delegation
    await store.update(count)
    final = store.view.nodes.get("n1")
    assert final is not None
    assert (len(lost), final.record.name) == (20, "21")


async def test_update_gives_up_after_its_attempts(store: SealedStore) -> None:
    stored = await created(store, node("n1"))
    await store.commit(Write((Replace(stored, node("n1", name="b")),)))
    asked = []

    def stubborn(view: View) -> Write:
        asked.append(view.revision)
        return Write((Replace(stored, node("n1", name="c")),))

    with pytest.raises(StaleVersion):
        await store.update(stubborn, attempts=3)
    assert len(asked) == 3


async def test_update_with_nothing_to_do_writes_nothing(store: SealedStore) -> None:
    before = await store.barrier()
    assert await store.update(lambda _view: None) == before
    assert await store.barrier() == before


async def test_one_name_goes_to_one_of_many_callers(lab: StoreLab) -> None:
    stores = [await lab.open("m1"), await lab.open("m2")]

    async def claim(number: int) -> bool:
        record = NameRecord(id=name_id(Kind.SECRET, "Db"), owner=f"s{number}")
        try:
            await stores[number % 2].commit(Write((Create(record),)))
        except AlreadyExists:
            return False
        return True

    assert sum(await asyncio.gather(*(claim(number) for number in range(30)))) == 1


async def test_a_name_can_be_claimed_again_after_it_was_freed(lab: StoreLab) -> None:
    first, second = await lab.open("m1"), await lab.open("m2")
    name = NameRecord(id=name_id(Kind.SECRET, "db"), owner="s1")
    generations = []
    for store in (first, second, first, second):
        await store.barrier()
        await store.commit(Write((Create(name),)))
        stored = store.view.names.get(name.id)
        assert stored is not None
        generations.append(stored.generation)
        await store.commit(Write((Remove(stored),)))
    # Each life stands above the one before, so that no state of an earlier life can follow it.
    assert generations == sorted(set(generations))
    await first.barrier()
    assert first.view.faults == ()
    assert second.view.faults == ()


async def test_a_lost_duty_fails_the_write(lab: StoreLab, store: SealedStore) -> None:
    duty = await lab.engine.campaign("placement", "m1", 10.0)
    await store.commit(Write((Create(node("n1")),), guards=(duty.guard,)))
    await duty.resign()
    with pytest.raises(Conflict) as caught:
        await store.commit(Write((Create(node("n2")),), guards=(duty.guard,)))
    assert not isinstance(caught.value, (StaleVersion, AlreadyExists))
    assert store.view.nodes.get("n2") is None


async def test_a_barrier_returns_although_no_record_changed(
    lab: StoreLab, store: SealedStore
) -> None:
    duty = await lab.engine.campaign("placement", "m1", 10.0)
    await duty.resign()
    assert await store.barrier() <= store.view.revision


async def test_a_barrier_shows_what_another_manager_acknowledged(lab: StoreLab) -> None:
    first, second = await lab.open("m1"), await lab.open("m2")
    for number in range(20):
        await first.commit(Write((Create(node(f"n{number}")),)))
        await second.barrier()
        assert second.view.nodes.get(f"n{number}") is not None


async def test_barriers_that_arrive_together_share_two_rounds(lab: StoreLab) -> None:
    asked = []
    began = asyncio.Event()

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(lab.engine, name)

        async def barrier(self) -> int:
            asked.append(1)
            began.set()
            return await lab.engine.barrier()

    store = await lab.open(engine=Counting())  # type: ignore[arg-type]  # a port by delegation
    first = asyncio.create_task(store.barrier())
    await began.wait()
    await asyncio.gather(first, *(store.barrier() for _ in range(50)))
    assert len(asked) == 2


async def test_waiting_for_a_revision_that_does_not_come_ends(store: SealedStore) -> None:
    with pytest.raises(Unavailable, match="has not caught up"):
        await store.view.wait_for(store.view.revision + 1, 0.01)


async def test_a_value_that_does_not_exist_is_not_found(store: SealedStore) -> None:
    with pytest.raises(VersionNotFound):
        store.open_value("s", 1)  # type: ignore[arg-type]  # plain ids


async def test_a_removed_value_is_gone(store: SealedStore) -> None:
    await store.commit(Write((Create(value("s", 1, b"v")), Create(value("s", 2, b"w")))))
    stored = store.view.secret_values.get("s/1")
    assert stored is not None
    await store.commit(Write((Remove(stored),)))
    assert store.view.secret_values.get("s/1") is None
    assert store.open_value("s", 2).reveal() == b"w"  # type: ignore[arg-type]  # plain ids


async def test_a_value_of_the_largest_size_is_stored(store: SealedStore) -> None:
    largest = bytes(511_999)
    await store.commit(Write((Create(value("s", 1, largest)),)))
    assert store.open_value("s", 1).reveal() == largest  # type: ignore[arg-type]  # plain ids


async def test_a_write_over_the_limits_is_refused_and_harms_no_other(store: SealedStore) -> None:
    many = Write(tuple(Create(node(f"n{number}")) for number in range(126)))
    huge = Write(tuple(Create(value("s", n, bytes(500_000))) for n in range(3)))
    small = Write((Create(node("small")),))
    results = await asyncio.gather(
        store.commit(many), store.commit(huge), store.commit(small), return_exceptions=True
    )
    assert [type(result) for result in results] == [TransactionTooLarge, TransactionTooLarge, int]
    assert len(store.view.nodes) == 1


async def test_a_write_changes_each_record_once(store: SealedStore) -> None:
    with pytest.raises(InvariantViolation):
        await store.commit(Write((Create(node("n1")), Create(node("n1")))))


async def test_the_engine_holds_no_plaintext(tmp_path: Path, lab: StoreLab) -> None:
    store = await lab.open("manager-canary")
    entry = AuditEntry(
        at=0.0, caller="caller-canary", action="action-canary", resource="res", allowed=True
    )
    canary = Create(NodeRecord(id="id-canary", name="name-canary", created_at=0.0))
    hidden = Create(value("s-canary", 1, b"value-canary"))
    await store.commit(Write((canary, hidden), audit=(entry,)))
    await lab.put_raw(b"control", b"plain-control")
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"plain-control" in files
    assert b"canary" not in files


async def test_a_store_on_a_reopened_file_goes_on(tmp_path: Path, lab: StoreLab) -> None:
    store = await lab.open("m1", "b1")
    await created(store, node("n1"))
    await store.close()
    await lab.engine.close()
    lab.engine = await SqliteEngine.open(tmp_path / "store.db", ManualClock())
    again = await lab.open("m1", "b2")
    await created(again, node("n2"))
    assert set(again.view.nodes) == {"n1", "n2"}
    assert len(again.view.audit_streams) == 2


async def test_a_compacted_watch_lists_again(lab: StoreLab) -> None:
    store, other = await lab.open("m1"), await lab.open("m2")
    kept = await created(store, node("kept"))
    gone = await created(store, node("gone"))
    await other.barrier()
    changes: list[RecordChange] = []
    other.view.subscribe(lambda change: changes.extend(change.changed))
    assert other._running is not None
    other._running.cancel()  # it falls behind
    await asyncio.wait([other._running])
    await store.commit(Write((Replace(kept, node("kept", name="b")), Remove(gone))))
    await created(store, node("new"))
    await lab.engine.compact(store.view.revision)
    other._running = asyncio.create_task(other._run())
    await other.view.wait_for(store.view.revision, WAIT_S)
    assert other.view.nodes.values() == store.view.nodes.values()
    assert {(c.id, c.before is None, c.after is None) for c in changes if c.kind is Kind.NODE} == {
        ("kept", False, False),
        ("gone", False, True),
        ("new", True, False),
    }
    assert other.view.faults == ()
