"""What the seam promises, as tests that know nothing of an engine's inside.

A suite per engine subclasses `EngineConformance` and gives two fixtures: `engine`, an empty engine,
and `small_engine`, an empty one with a quota of `SMALL_QUOTA_BYTES`.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence

import pytest

from cluster.engine.seam import (
    MAX_KEY_BYTES,
    MAX_OPERATIONS,
    MAX_VALUE_BYTES,
    Absent,
    Cancelled,
    Change,
    Committed,
    Compare,
    CompareFailed,
    Delete,
    Engine,
    Entry,
    Operation,
    OutcomeUnknown,
    Put,
    Unchanged,
    WatchBatch,
)
from cluster.protocol.errors import (
    Compacted,
    InvalidRequest,
    StorageFull,
    TransactionTooLarge,
)
from tests.support.entropy import SeededEntropy

SMALL_QUOTA_BYTES = 16 << 20
WAIT_S = 60.0
"""A test that waits longer is stuck."""

_numbers = itertools.count(1)


def request_id() -> bytes:
    """Return an id no other transaction of this run has."""
    return next(_numbers).to_bytes(16, "big")


async def commit(
    engine: Engine, *operations: Operation, compares: Sequence[Compare] = ()
) -> Committed:
    """Commit or fail the test."""
    outcome = await engine.transact(request_id(), compares, operations)
    assert isinstance(outcome, Committed), outcome
    return outcome


async def present(engine: Engine, key: bytes) -> Entry:
    """Return a key's entry or fail the test."""
    entry = await engine.read(key)
    assert entry is not None
    return entry


async def take(stream: AsyncIterator[WatchBatch], count: int) -> list[WatchBatch]:
    """Return the next batches of a watch."""
    async with asyncio.timeout(WAIT_S):
        return [await anext(stream) for _ in range(count)]


async def increment(engine: Engine, key: bytes) -> int:
    """Add one to a counter by compare and set, however often it takes; return the revision."""
    while True:
        met = await engine.read(key)
        compare = Absent(key) if met is None else Unchanged(key, met.mod_revision)
        value = b"1" if met is None else b"%d" % (int(met.value) + 1)
        outcome = await engine.transact(request_id(), [compare], [Put(key, value)])
        if isinstance(outcome, Committed):
            return outcome.revision
        assert isinstance(outcome, CompareFailed), outcome


async def _fill(engine: Engine, key: bytes) -> bytes:
    """Overwrite a key until the quota is reached; return the last acknowledged value."""
    acknowledged = b""
    for number in range(200):
        value = bytes([number]) * 500_000
        try:
            await commit(engine, Put(key, value))
        except StorageFull:
            return acknowledged
        acknowledged = value
    pytest.fail("the quota was never reached")


class EngineConformance:
    """The promises; see the module."""

    async def test_written_value_is_read_with_its_revisions(self, engine: Engine) -> None:
        first = await commit(engine, Put(b"k", b"one"))
        second = await commit(engine, Put(b"k", b"two"))
        assert second.revision > first.revision
        expected = Entry(b"k", b"two", first.revision, second.revision)
        assert await engine.read(b"k") == expected
        assert await engine.read(b"k", linearizable=False) == expected

    async def test_absent_key_reads_as_none(self, engine: Engine) -> None:
        await commit(engine, Put(b"kk", b"v"))
        assert await engine.read(b"k") is None

    async def test_binary_keys_and_values_survive(self, engine: Engine) -> None:
        key, value = b"\x00\xff" * 8, bytes(range(256))
        await commit(engine, Put(key, value), Put(b"\xff\xff", b""))
        assert (await present(engine, key)).value == value
        assert (await present(engine, b"\xff\xff")).value == b""
        page = await engine.list_page(b"\xff")
        assert [entry.key for entry in page.entries] == [b"\xff\xff"]

    async def test_absent_compare_lets_one_writer_in(self, engine: Engine) -> None:
        first = await engine.transact(request_id(), [Absent(b"k")], [Put(b"k", b"one")])
        second = await engine.transact(request_id(), [Absent(b"k")], [Put(b"k", b"two")])
        assert isinstance(first, Committed)
        assert second == CompareFailed((Entry(b"k", b"one", first.revision, first.revision),))
        assert (await present(engine, b"k")).value == b"one"

    async def test_unchanged_compare_fails_on_newer_and_on_absent(self, engine: Engine) -> None:
        old = await commit(engine, Put(b"k", b"one"))
        await commit(engine, Put(b"k", b"two"))
        compares = [Unchanged(b"k", old.revision), Unchanged(b"none", old.revision)]
        outcome = await engine.transact(request_id(), compares, [Put(b"other", b"x")])
        assert outcome == CompareFailed((await present(engine, b"k"), None))
        assert await engine.read(b"other") is None

    async def test_recreated_key_is_not_unchanged(self, engine: Engine) -> None:
        old = await commit(engine, Put(b"k", b"same"))
        await commit(engine, Delete(b"k"))
        new = await commit(engine, Put(b"k", b"same"))
        outcome = await engine.transact(
            request_id(), [Unchanged(b"k", old.revision)], [Put(b"k", b"x")]
        )
        assert outcome == CompareFailed((Entry(b"k", b"same", new.revision, new.revision),))

    async def test_current_names_holding_and_violated_compares_in_order(
        self, engine: Engine
    ) -> None:
        done = await commit(engine, Put(b"a", b"1"), Put(b"b", b"2"))
        compares: list[Compare] = [Unchanged(b"a", done.revision), Absent(b"c"), Absent(b"b")]
        outcome = await engine.transact(request_id(), compares, [Delete(b"a")])
        assert isinstance(outcome, CompareFailed)
        assert [entry and entry.value for entry in outcome.current] == [b"1", None, b"2"]

    async def test_transaction_applies_all_at_one_revision(self, engine: Engine) -> None:
        await commit(engine, Put(b"gone", b"x"))
        done = await commit(engine, Put(b"a", b"1"), Put(b"b", b"2"), Delete(b"gone"))
        a, b = await present(engine, b"a"), await present(engine, b"b")
        assert a.mod_revision == b.mod_revision == done.revision
        assert await engine.read(b"gone") is None

    async def test_removing_an_absent_key_is_no_error(self, engine: Engine) -> None:
        await commit(engine, Delete(b"never"))
        assert await engine.read(b"never") is None

    async def test_same_request_id_applies_once(self, engine: Engine) -> None:
        once = request_id()
        first = await engine.transact(once, [Absent(b"k")], [Put(b"k", b"1")])
        await commit(engine, Put(b"k", b"2"))
        again = await engine.transact(once, [Absent(b"k")], [Put(b"k", b"1")])
        assert isinstance(first, Committed)
        assert again == first
        assert (await present(engine, b"k")).value == b"2"

    async def test_failed_request_id_may_commit_when_sent_again(self, engine: Engine) -> None:
        await commit(engine, Put(b"k", b"1"))
        once = request_id()
        failed = await engine.transact(once, [Absent(b"k")], [Put(b"k", b"2")])
        await commit(engine, Delete(b"k"))
        then = await engine.transact(once, [Absent(b"k")], [Put(b"k", b"2")])
        assert isinstance(failed, CompareFailed)
        assert isinstance(then, Committed)

    async def test_same_request_sent_at_once_applies_once(self, engine: Engine) -> None:
        once = request_id()
        outcomes = await asyncio.gather(
            *(engine.transact(once, [], [Put(b"k", b"v")]) for _ in range(8))
        )
        assert len(set(outcomes)) == 1
        assert isinstance(outcomes[0], Committed)
        assert (await present(engine, b"k")).mod_revision == outcomes[0].revision

    async def test_cancelled_before_it_was_sent_never_commits(self, engine: Engine) -> None:
        never = request_id()
        assert await engine.cancel(never) == Cancelled()
        assert await engine.transact(never, [], [Put(b"k", b"v")]) == CompareFailed(())
        assert await engine.cancel(never) == Cancelled()
        assert await engine.read(b"k") is None

    async def test_cancel_after_commit_tells_the_revision(self, engine: Engine) -> None:
        done = request_id()
        outcome = await engine.transact(done, [], [Put(b"k", b"v")])
        assert await engine.cancel(done) == outcome
        assert (await present(engine, b"k")).value == b"v"

    async def test_cancel_in_flight_agrees_with_the_outcome(self, engine: Engine) -> None:
        for number in range(20):
            key, racing = b"race%d" % number, request_id()
            sent, settled = await asyncio.gather(
                engine.transact(racing, [], [Put(key, b"v")]), engine.cancel(racing)
            )
            met = await engine.read(key)
            if isinstance(settled, Committed):
                assert sent == settled
                assert met is not None
                assert met.mod_revision == settled.revision
            else:
                assert settled == Cancelled()
                assert sent == CompareFailed(())
                assert met is None

    async def test_abandoned_transaction_is_settled_by_cancel(self, engine: Engine) -> None:
        for number in range(20):
            key, left = b"left%d" % number, request_id()
            sending = asyncio.ensure_future(engine.transact(left, [], [Put(key, b"v")]))
            await asyncio.sleep(0.0005 * number)
            sending.cancel()
            await asyncio.wait([sending])
            settled = await engine.cancel(left)
            met = await engine.read(key)
            assert not isinstance(settled, OutcomeUnknown)
            assert (met is not None) == isinstance(settled, Committed)

    async def test_concurrent_counters_lose_nothing(self, engine: Engine) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(increment(engine, b"n")) for _ in range(40)]
        assert (await present(engine, b"n")).value == b"40"
        assert len({task.result() for task in tasks}) == 40

    async def test_read_follows_every_acknowledged_write(self, engine: Engine) -> None:
        for number in range(20):
            done = await commit(engine, Put(b"k", b"%d" % number))
            assert await engine.barrier() >= done.revision
            assert (await present(engine, b"k")).mod_revision == done.revision

    async def test_pages_join_to_the_whole_in_key_order(self, engine: Engine) -> None:
        names = [b"p/%03d" % number for number in range(25)]
        await commit(engine, *(Put(name, name) for name in reversed(names)), Put(b"q", b""))
        await commit(engine, Put(b"o", b""))
        met: list[bytes] = []
        after: bytes | None = None
        while True:
            page = await engine.list_page(b"p/", after=after, limit=10)
            met += [entry.value for entry in page.entries]
            if not page.more:
                break
            after = page.entries[-1].key
        assert met == names

    async def test_exact_page_has_no_more(self, engine: Engine) -> None:
        await commit(engine, Put(b"p/1", b""), Put(b"p/2", b""))
        assert not (await engine.list_page(b"p/", limit=2)).more
        assert (await engine.list_page(b"p/", limit=1)).more
        empty = await engine.list_page(b"x/")
        assert (empty.entries, empty.more) == ((), False)

    async def test_pages_at_a_revision_do_not_see_later_writes(self, engine: Engine) -> None:
        await commit(engine, *(Put(b"p/%d" % number, b"old") for number in range(6)))
        first = await engine.list_page(b"p/", limit=3)
        await commit(engine, Put(b"p/4", b"new"), Delete(b"p/5"), Put(b"p/9", b"new"))
        second = await engine.list_page(
            b"p/", after=first.entries[-1].key, at_revision=first.revision, limit=3
        )
        assert [(e.key, e.value) for e in second.entries] == [
            (b"p/3", b"old"),
            (b"p/4", b"old"),
            (b"p/5", b"old"),
        ]
        assert (second.revision, second.more) == (first.revision, False)

    async def test_empty_prefix_lists_every_key(self, engine: Engine) -> None:
        leadership = await engine.campaign("duty", "me", 10)
        await commit(engine, Put(b"\x00", b""), Put(b"m", b""), Put(b"\xff", b""))
        page = await engine.list_page(b"")
        assert [entry.key for entry in page.entries] == [b"\x00", b"m", b"\xff"]
        await leadership.resign()

    async def test_state_before_compaction_is_gone(self, engine: Engine) -> None:
        old = await commit(engine, Put(b"k", b"1"))
        for number in range(5):
            new = await commit(engine, Put(b"k", b"%d" % number))
        await engine.compact(new.revision)
        with pytest.raises(Compacted):
            await engine.list_page(b"", at_revision=old.revision)
        page = await engine.list_page(b"", at_revision=new.revision)
        assert [entry.value for entry in page.entries] == [b"4"]
        await engine.compact(new.revision)
        await engine.compact(old.revision)

    async def test_the_future_cannot_be_compacted(self, engine: Engine) -> None:
        with pytest.raises(InvalidRequest):
            await engine.compact(await engine.barrier() + 100)

    async def test_the_future_cannot_be_listed(self, engine: Engine) -> None:
        head = await engine.barrier()
        with pytest.raises(InvalidRequest):
            await engine.list_page(b"", at_revision=head + 100)
        assert (await engine.list_page(b"", at_revision=head)).revision == head

    async def test_watch_yields_whole_revisions_in_order(self, engine: Engine) -> None:
        start = await engine.barrier()
        made = [await commit(engine, Put(b"w/a", b"1"), Put(b"w/b", b"2"), Put(b"x", b"0"))]
        made.append(await commit(engine, Delete(b"w/a")))
        stream = engine.watch(b"w/", start + 1)
        met = await take(stream, 2)
        await commit(engine, Put(b"y", b"elsewhere"))
        made.append(await commit(engine, Put(b"w/b", b"3")))
        met += await take(stream, 1)
        assert [batch.revision for batch in met] == [done.revision for done in made]
        assert sorted((c.entry.key, c.entry.value) for c in met[0].changes) == [
            (b"w/a", b"1"),
            (b"w/b", b"2"),
        ]
        assert [(c.entry.key, c.entry.value, c.deleted) for c in met[1].changes] == [
            (b"w/a", b"", True)
        ]
        last = Entry(b"w/b", b"3", made[0].revision, made[2].revision)
        assert met[2].changes == (Change(last, deleted=False),)

    async def test_watch_from_the_middle_begins_there(self, engine: Engine) -> None:
        made = [await commit(engine, Put(b"w", b"%d" % number)) for number in range(5)]
        met = await take(engine.watch(b"w", made[3].revision), 2)
        assert [batch.revision for batch in met] == [made[3].revision, made[4].revision]

    async def test_watch_carries_a_long_history(self, engine: Engine) -> None:
        start = await engine.barrier()
        made = [
            await commit(engine, *(Put(b"w/%d/%d" % (n, i), b"v") for i in range(50)))
            for n in range(12)
        ]
        met = await take(engine.watch(b"w/", start + 1), 12)
        assert [batch.revision for batch in met] == [done.revision for done in made]
        assert {len(batch.changes) for batch in met} == {50}

    async def test_large_values_are_watched_and_listed_whole(self, engine: Engine) -> None:
        start = await engine.barrier()
        values = {b"w/%d" % number: bytes([number]) * 600_000 for number in range(16)}
        names = sorted(values)
        for pair in zip(names[::2], names[1::2], strict=True):
            await commit(engine, *(Put(name, values[name]) for name in pair))
        met = await take(engine.watch(b"w/", start + 1), 8)
        assert {c.entry.key: c.entry.value for b in met for c in b.changes} == values
        listed: dict[bytes, bytes] = {}
        page = await engine.list_page(b"w/")
        listed |= {entry.key: entry.value for entry in page.entries}
        while page.more:
            page = await engine.list_page(
                b"w/", after=page.entries[-1].key, at_revision=page.revision
            )
            listed |= {entry.key: entry.value for entry in page.entries}
        assert listed == values

    async def test_random_transactions_match_a_naive_model(
        self, engine: Engine, entropy: SeededEntropy
    ) -> None:
        model: dict[bytes, tuple[bytes, int]] = {}
        states: dict[int, dict[bytes, bytes]] = {}
        for number in range(150):
            drawn = entropy.token(4)
            keys = {b"m/%d" % (draw % 8) for draw in drawn[:2]}
            guarded = b"m/%d" % (drawn[2] % 8)
            known = model.get(guarded)
            compare = Unchanged(guarded, known[1]) if known and drawn[3] % 4 else Absent(guarded)
            operations: list[Operation] = [
                Put(key, b"%d" % number) if drawn[3] % 3 else Delete(key) for key in keys
            ]
            outcome = await engine.transact(request_id(), [compare], operations)
            holds = isinstance(compare, Unchanged) or known is None
            assert isinstance(outcome, Committed if holds else CompareFailed)
            if isinstance(outcome, Committed):
                for operation in operations:
                    if isinstance(operation, Put):
                        model[operation.key] = (operation.value, outcome.revision)
                    else:
                        model.pop(operation.key, None)
                states[outcome.revision] = {key: value for key, (value, _) in model.items()}
        assert states
        for revision, state in states.items():
            page = await engine.list_page(b"m/", at_revision=revision)
            assert {entry.key: entry.value for entry in page.entries} == state

    async def test_watch_below_compaction_says_so(self, engine: Engine) -> None:
        old = await commit(engine, Put(b"k", b"1"))
        await commit(engine, Put(b"k", b"2"))
        new = await commit(engine, Put(b"k", b"3"))
        await engine.compact(new.revision)
        with pytest.raises(Compacted):
            await take(engine.watch(b"k", old.revision), 1)

    async def test_watch_from_the_compacted_revision_is_whole(self, engine: Engine) -> None:
        await commit(engine, Put(b"k", b"1"))
        gone = await commit(engine, Delete(b"k"))
        later = await commit(engine, Put(b"k", b"2"))
        await engine.compact(gone.revision)
        met = await take(engine.watch(b"k", gone.revision), 2)
        assert [batch.revision for batch in met] == [gone.revision, later.revision]
        assert met[0].changes[0].deleted

    async def test_a_compacted_removal_is_never_skipped(self, engine: Engine) -> None:
        await commit(engine, Put(b"k", b"1"))
        gone = await commit(engine, Delete(b"k"))
        later = await commit(engine, Put(b"k", b"2"))
        await engine.compact(later.revision)
        with pytest.raises(Compacted):
            await take(engine.watch(b"k", gone.revision), 1)

    async def test_watches_see_concurrent_writers_once(self, engine: Engine) -> None:
        start = await engine.barrier()
        watching = asyncio.ensure_future(take(engine.watch(b"c/", start + 1), 40))
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(commit(engine, Put(b"c/%d" % number, b"v")))
        met = await watching
        revisions = [batch.revision for batch in met]
        assert revisions == sorted(set(revisions))
        assert {c.entry.key for batch in met for c in batch.changes} == {
            b"c/%d" % number for number in range(40)
        }

    @pytest.mark.parametrize(
        "operations",
        [
            [Put(b"k%d" % number, b"") for number in range(MAX_OPERATIONS)],
            [Put(b"k", bytes(MAX_VALUE_BYTES + 1))],
            [Put(b"a", bytes(MAX_VALUE_BYTES)), Put(b"b", bytes(MAX_VALUE_BYTES))],
        ],
        ids=["too many", "value too large", "too large together"],
    )
    async def test_limits_are_clear_errors(
        self, engine: Engine, operations: list[Operation]
    ) -> None:
        with pytest.raises(TransactionTooLarge):
            await engine.transact(request_id(), [], operations)

    async def test_the_largest_transactions_fit(self, engine: Engine) -> None:
        await commit(engine, *(Put(b"k%d" % n, b"") for n in range(MAX_OPERATIONS - 1)))
        await commit(engine, Put(b"k" * MAX_KEY_BYTES, bytes(MAX_VALUE_BYTES)), Put(b"b", b""))
        assert len((await present(engine, b"k" * MAX_KEY_BYTES)).value) == MAX_VALUE_BYTES

    @pytest.mark.parametrize("key", [b"", bytes(MAX_KEY_BYTES + 1)], ids=["empty", "too long"])
    async def test_unusable_keys_are_refused(self, engine: Engine, key: bytes) -> None:
        with pytest.raises(InvalidRequest):
            await engine.transact(request_id(), [], [Put(key, b"")])

    async def test_one_key_takes_one_operation(self, engine: Engine) -> None:
        with pytest.raises(InvalidRequest):
            await engine.transact(request_id(), [], [Put(b"k", b"1"), Delete(b"k")])

    @pytest.mark.parametrize("size", [0, 15, 17])
    async def test_request_ids_have_one_size(self, engine: Engine, size: int) -> None:
        with pytest.raises(InvalidRequest):
            await engine.transact(bytes(size), [], [Put(b"k", b"")])
        with pytest.raises(InvalidRequest):
            await engine.cancel(bytes(size))

    async def test_one_holds_a_duty_until_he_resigns(self, engine: Engine) -> None:
        first = await engine.campaign("placement", "m1", 10)
        assert await engine.holders() == {"placement": "m1"}
        waiting = asyncio.ensure_future(engine.campaign("placement", "m2", 10))
        other = await engine.campaign("schedule", "m2", 10)
        await commit(engine, Put(b"k", b"1"), compares=[first.guard])
        assert not waiting.done()
        await first.resign()
        async with asyncio.timeout(WAIT_S):
            await first.lost()
            second = await waiting
        assert await engine.holders() == {"placement": "m2", "schedule": "m2"}
        await other.resign()
        await second.resign()
        assert await engine.holders() == {}

    async def test_a_lost_duty_cannot_write(self, engine: Engine) -> None:
        first = await engine.campaign("placement", "m1", 10)
        await first.resign()
        late = await engine.transact(request_id(), [first.guard], [Put(b"k", b"late")])
        assert late == CompareFailed((None,))
        second = await engine.campaign("placement", "m2", 10)
        late = await engine.transact(request_id(), [first.guard], [Put(b"k", b"late")])
        assert isinstance(late, CompareFailed)
        assert await engine.read(b"k") is None
        await commit(engine, Put(b"k", b"mine"), compares=[second.guard])
        await second.resign()

    async def test_an_abandoned_campaign_blocks_nobody(self, engine: Engine) -> None:
        for number in range(5):
            waiting = asyncio.ensure_future(engine.campaign("duty", "left", 10))
            await asyncio.sleep(0.001 * number)
            waiting.cancel()
            await asyncio.wait([waiting])
            if not waiting.cancelled():
                await waiting.result().resign()
        async with asyncio.timeout(WAIT_S):
            held = await engine.campaign("duty", "next", 10)
        assert await engine.holders() == {"duty": "next"}
        await held.resign()

    async def test_reached_quota_is_told_and_recovered(self, small_engine: Engine) -> None:
        engine = small_engine
        acknowledged = await _fill(engine, b"k")
        assert (await present(engine, b"k")).value == acknowledged
        await engine.recover_space()
        await commit(engine, Put(b"k", b"again"))
        assert (await present(engine, b"k")).value == b"again"

    async def test_status_names_the_members(self, engine: Engine) -> None:
        done = await commit(engine, Put(b"k", b"1"))
        status = await engine.status()
        assert status.revision >= done.revision
        assert status.leader in {member.name for member in status.members}
        assert 0 < status.size_bytes < status.quota_bytes
        assert status.alarms == ()
