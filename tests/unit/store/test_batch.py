"""Which writes go into one transaction, and which of them failed it."""

import asyncio
from collections import deque

import pytest

from cluster.engine.seam import Absent, Compare, Delete, Entry, Put, Unchanged
from cluster.protocol.errors import AlreadyExists, Conflict, OutcomeUnknown, StaleVersion
from cluster.seal.keyring import new_keyring
from cluster.store.batch import MAX_WRITES, Pending, PlainPut, take
from tests.support.entropy import SeededEntropy

ENTROPY = SeededEntropy(1)
KEYRING = new_keyring(ENTROPY)


def pending(
    *,
    puts: tuple[bytes, ...] = (),
    deletes: tuple[bytes, ...] = (),
    compares: tuple[Compare, ...] = (),
    guards: tuple[Compare, ...] = (),
    creates: frozenset[bytes] = frozenset(),
    size: int = 10,
) -> Pending:
    return Pending(
        done=asyncio.get_running_loop().create_future(),
        compares=compares,
        guards=guards,
        creates=creates,
        puts=tuple(PlainPut("node", key, 1, bytes(size)) for key in puts),
        ready=tuple(Delete(key) for key in deletes),
        audit=(),
        writes=(),
        audit_bytes=0,
    )


def taken(*writes: Pending) -> list[list[int]]:
    """Return the batches that a queue yields, as indexes of its writes."""
    queue, batches = deque(writes), []
    while batch := take(queue):
        batches.append([writes.index(write) for write in batch])
    return batches


async def test_writes_of_different_keys_merge() -> None:
    assert taken(*(pending(puts=(b"%d" % n,)) for n in range(5))) == [[0, 1, 2, 3, 4]]


async def test_a_batch_has_a_largest_count() -> None:
    batches = taken(*(pending(puts=(b"%d" % n,)) for n in range(MAX_WRITES + 1)))
    assert [len(batch) for batch in batches] == [MAX_WRITES, 1]


async def test_a_batch_ends_before_a_key_that_it_writes_is_touched_again() -> None:
    writer = pending(puts=(b"a",))
    for second in (
        pending(puts=(b"a",)),
        pending(deletes=(b"a",)),
        pending(compares=(Unchanged(b"a", 1),)),
    ):
        assert taken(writer, second, pending(puts=(b"b",))) == [[0], [1, 2]]
    assert taken(pending(deletes=(b"a",)), pending(compares=(Absent(b"a"),))) == [[0], [1]]


async def test_a_compare_may_go_before_a_write_of_its_key() -> None:
    reader = pending(puts=(b"b",), compares=(Unchanged(b"a", 1),))
    assert taken(reader, pending(puts=(b"a",), compares=(Unchanged(b"a", 1),))) == [[0, 1]]


async def test_operations_and_compares_are_counted() -> None:
    many = tuple(b"a%d" % n for n in range(100))
    assert taken(pending(puts=many), pending(puts=tuple(b"b" + key for key in many))) == [[0], [1]]
    compares = tuple(Absent(key) for key in many)
    assert taken(pending(compares=compares), pending(compares=compares)) == [[0], [1]]


async def test_a_large_write_goes_alone() -> None:
    small, large = pending(puts=(b"s",)), pending(puts=(b"l",), size=400_000)
    assert taken(small, large, pending(puts=(b"t",))) == [[0], [1], [2]]


async def test_a_write_whose_caller_left_is_dropped() -> None:
    left = pending(puts=(b"a",))
    left.done.cancel()
    queue = deque([left, pending(puts=(b"b",))])
    assert len(take(queue)) == 1
    assert not queue


async def test_a_merged_again_write_keeps_its_seal_until_the_keyring_changes() -> None:
    write = pending(puts=(b"a",))
    first = write.operations(KEYRING, ENTROPY)
    assert write.operations(KEYRING, ENTROPY) == first
    newer = KEYRING.with_new_epoch(ENTROPY)
    assert write.operations(newer, ENTROPY) != first


async def test_a_violation_is_told_by_what_was_met() -> None:
    create, require, guard = Absent(b"c"), Unchanged(b"r", 4), Unchanged(b"g", 2)
    write = pending(
        compares=(create, require), guards=(guard,), creates=frozenset({b"c"}), puts=(b"c",)
    )
    held: dict[Compare, Entry | None] = {
        create: None,
        require: Entry(b"r", b"", 1, 4),
        guard: Entry(b"g", b"", 2, 2),
    }
    assert write.violated(held) is None
    exists = write.violated({**held, create: Entry(b"c", b"", 8, 9)})
    assert isinstance(exists, AlreadyExists)
    assert exists.revision == 9
    stale = write.violated({**held, require: Entry(b"r", b"", 1, 7)})
    assert isinstance(stale, StaleVersion)
    assert stale.revision == 7
    removed = write.violated({**held, require: None})
    assert isinstance(removed, StaleVersion)
    assert removed.revision == 0
    assert type(write.violated({**held, guard: None})) is Conflict


async def test_a_caller_who_left_is_not_answered() -> None:
    write = pending()
    write.done.cancel()
    write.succeed(1)
    write.fail(OutcomeUnknown())
    assert write.done.cancelled()


@pytest.mark.parametrize(
    ("puts", "size", "fits"),
    [(1, 10, True), (124, 10, True), (125, 10, False), (3, 480_000, False)],
)
async def test_what_an_engine_cannot_commit_is_known_before(
    puts: int, size: int, *, fits: bool
) -> None:
    write = pending(puts=tuple(b"%d" % n for n in range(puts)), size=size)
    assert write.fits_alone is fits
    assert all(isinstance(operation, Put) for operation in write.operations(KEYRING, ENTROPY))
