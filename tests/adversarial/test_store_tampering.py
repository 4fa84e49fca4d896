"""Whoever can write to the engine but holds no key: damage, swaps, replays. Detected by kind, never
served.

Each attack goes through the raw engine, against a manager that runs and, where memory is not needed
to notice, against one that starts afterwards. Every case has its control: the same hand on a kind
that nobody asks for leaves the others served.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from cluster.engine.seam import Compare, Delete, Operation, Outcome, Put
from cluster.protocol.errors import IntegrityError
from cluster.seal.envelope import seal_record
from cluster.store.records import (
    RECORD_TYPES,
    Kind,
    NameRecord,
    NodeRecord,
    OperatorRecord,
    OperatorRole,
    Record,
    TaskRecord,
    TaskState,
    encode,
)
from cluster.store.sealed_store import Create, Remove, Replace, SealedStore, Write
from tests.support.stores import StoreLab, UnreliableEngine, node, secret, sqlite_lab, value

WAIT_S = 30.0

Attack = Callable[[StoreLab, SealedStore], Awaitable[int]]


@pytest.fixture
async def lab(tmp_path: Path, seed: int) -> AsyncIterator[StoreLab]:
    async with sqlite_lab(tmp_path, seed) as lab:
        yield lab


@pytest.fixture
async def store(lab: StoreLab) -> SealedStore:
    """A store with two of each that is attacked, and one kind that is not."""
    store = await lab.open("victim")
    records: list[Record] = [node("n1"), node("n2"), secret("s", 1, 2)]
    records += [value("s", 1, b"one"), value("s", 2, b"two")]
    records += [task("n1"), NameRecord(id="node/a", owner="n1"), operator("olga")]
    await store.commit(Write(tuple(map(Create, records))))
    return store


def task(node_id: str) -> TaskRecord:
    return TaskRecord(
        id=f"svc.{node_id}",
        service_id="svc",  # type: ignore[arg-type]  # plain ids
        node_id=node_id,  # type: ignore[arg-type]
        state=TaskState.RUNNING,
        created_at=0.0,
    )


def operator(name: str) -> OperatorRecord:
    return OperatorRecord(id=name, role=OperatorRole.ADMIN, created_at=0.0)


async def damage(lab: StoreLab, key: bytes) -> int:
    sealed = bytearray((await lab.entry(key)).value)
    sealed[-1] ^= 1
    return await lab.put_raw(key, bytes(sealed))


def refuses_nodes(store: SealedStore) -> bool:
    """Return whether nodes are refused, and only nodes."""
    assert store.view.secrets.get("s") is not None
    with pytest.raises(IntegrityError, match="'node'"):
        store.view.nodes.get("n1")
    with pytest.raises(IntegrityError, match="'node'"):
        store.view.nodes.values()
    return {kind for kind, _ in store.view.faults} == {Kind.NODE}


async def attack_damage(lab: StoreLab, _store: SealedStore) -> int:
    return await damage(lab, lab.key(Kind.NODE, "n1"))


async def attack_truncate(lab: StoreLab, _store: SealedStore) -> int:
    key = lab.key(Kind.NODE, "n1")
    return await lab.put_raw(key, (await lab.entry(key)).value[:20])


async def attack_empty(lab: StoreLab, _store: SealedStore) -> int:
    return await lab.put_raw(lab.key(Kind.NODE, "n1"), b"")


async def attack_swap(lab: StoreLab, _store: SealedStore) -> int:
    one, two = lab.key(Kind.NODE, "n1"), lab.key(Kind.NODE, "n2")
    first, second = await lab.entry(one), await lab.entry(two)
    await lab.put_raw(one, second.value)
    return await lab.put_raw(two, first.value)


async def attack_other_kind(lab: StoreLab, _store: SealedStore) -> int:
    sealed = (await lab.entry(lab.key(Kind.SECRET, "s"))).value
    return await lab.put_raw(lab.key(Kind.NODE, "n1"), sealed)


async def attack_copy(lab: StoreLab, _store: SealedStore) -> int:
    sealed = (await lab.entry(lab.key(Kind.NODE, "n1"))).value
    return await lab.put_raw(lab.key(Kind.NODE, "n3"), sealed)


async def attack_mislabel(lab: StoreLab, _store: SealedStore) -> int:
    """Write another node's record, sealed with the real keys: what a bug of ours would do."""
    key = lab.key(Kind.NODE, "n1")
    sealed = seal_record(
        lab.keyring,
        kind=Kind.NODE.value,
        engine_key=key,
        generation=9,
        plaintext=encode(node("n2")),
        entropy=lab.entropy,
    )
    return await lab.put_raw(key, sealed)


DAMAGE, EXCHANGE = pytest.mark.threat("T-02"), pytest.mark.threat("T-03")
ATTACKS = [
    pytest.param(attack_damage, marks=DAMAGE),
    pytest.param(attack_truncate, marks=DAMAGE),
    pytest.param(attack_empty, marks=DAMAGE),
    pytest.param(attack_swap, marks=EXCHANGE),
    pytest.param(attack_other_kind, marks=EXCHANGE),
    pytest.param(attack_copy, marks=EXCHANGE),
    pytest.param(attack_mislabel, marks=EXCHANGE),
]


@pytest.mark.threat("T-02")
@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_running_manager_refuses_the_kind(
    lab: StoreLab, store: SealedStore, attack: Attack
) -> None:
    await store.view.wait_for(await attack(lab, store), WAIT_S)
    assert refuses_nodes(store)
    with pytest.raises(IntegrityError):
        await store.commit(Write((Create(node("n9")),)))


@pytest.mark.threat("T-02")
@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_manager_that_starts_refuses_the_kind(
    lab: StoreLab, store: SealedStore, attack: Attack
) -> None:
    await attack(lab, store)
    assert refuses_nodes(await lab.open("late"))


class ForgingEngine(UnreliableEngine):
    """A port to a real engine that stores something else under one key than it was given."""

    def __init__(self, lab: StoreLab, victim: bytes, forge: Callable[[bytes], bytes]) -> None:
        super().__init__(lab.engine)
        self._victim = victim
        self._forge = forge

    async def transact(
        self, request_id: bytes, compares: tuple[Compare, ...], operations: tuple[Operation, ...]
    ) -> Outcome:
        """Pass on, forged."""
        forged = tuple(
            Put(one.key, self._forge(one.value))
            if isinstance(one, Put) and one.key == self._victim
            else one
            for one in operations
        )
        return await super().transact(request_id, compares, forged)


@pytest.mark.threat("T-02")
@pytest.mark.parametrize("place", [0, 12, 20, 50, -1, None])
async def test_a_write_of_its_own_that_comes_back_changed_is_not_believed(
    lab: StoreLab, place: int | None
) -> None:
    """What the watch brings is compared with what was sealed here, or else opened."""

    def forge(sealed: bytes) -> bytes:
        changed = bytearray(sealed)
        if place is not None:
            changed[place] ^= 1
        return bytes(changed)

    engine = ForgingEngine(lab, lab.key(Kind.NODE, "n1"), forge)
    store = await lab.open("victim", engine=engine)  # type: ignore[arg-type]  # a port
    await store.commit(Write((Create(node("n1")), Create(secret("s", 1)))))
    if place is None:
        assert store.view.nodes.get("n1") is not None, "the control"
        assert not store.view.faults
    else:
        assert refuses_nodes(store)


@pytest.mark.threat("T-02")
@pytest.mark.threat("T-02")
async def test_every_byte_of_every_stored_value_counts(lab: StoreLab, store: SealedStore) -> None:
    victims = [
        (Kind.NODE, "n1"),
        (Kind.SECRET, "s"),
        (Kind.NAME, "node/a"),
        (Kind.OPERATOR, "olga"),
    ]
    for kind, record_id in victims:
        key = lab.key(kind, record_id)
        sealed = (await lab.entry(key)).value
        for place in range(len(sealed)):
            changed = bytearray(sealed)
            changed[place] ^= 0x01
            entry = await lab.entry(key)
            forged = type(entry)(key, bytes(changed), entry.create_revision, entry.mod_revision)
            fresh = await unwatched(lab, store)
            assert fresh._ingest._open(forged) is None
            assert [kind for kind, _ in fresh.view.faults] == [kind]
        control = await unwatched(lab, store)
        assert control._ingest._open(await lab.entry(key)) is not None
        assert control.view.faults == ()


async def unwatched(lab: StoreLab, store: SealedStore) -> SealedStore:
    """Return a store that was not filled, to open single entries with."""
    return SealedStore(
        lab.engine,
        store._cell,
        manager_id="probe",  # type: ignore[arg-type]  # a plain id
        boot="b",
        clock=lab.clock,
        entropy=lab.entropy,
        on_fault=None,
    )


# --- secret values: sealed in memory, judged when they are asked for ----------------------------


@pytest.mark.threat("T-02")
@pytest.mark.threat("T-02")
async def test_every_byte_of_a_sealed_secret_value_counts(
    lab: StoreLab, store: SealedStore
) -> None:
    key = lab.key(Kind.SECRET_VALUE, "s/1")
    row = store.view.secret_values.rows[key]
    assert store.open_value("s", 1).reveal() == b"one"  # type: ignore[arg-type]  # plain ids
    for place in range(len(row.sealed)):
        changed = bytearray(row.sealed)
        changed[place] ^= 0x01
        fresh = await unwatched(lab, store)
        forged = type(row)(bytes(changed), row.generation, row.mod_revision, row.epoch)
        fresh.view.secret_values.rows[key] = forged
        with pytest.raises(IntegrityError):
            fresh.open_value("s", 1)  # type: ignore[arg-type]  # plain ids
        assert [kind for kind, _ in fresh.view.faults] == [Kind.SECRET_VALUE]


@pytest.mark.threat("T-03")
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.threat("T-03")
async def test_swapped_secret_values_are_not_issued(
    lab: StoreLab, store: SealedStore, *, late: bool
) -> None:
    one, two = lab.key(Kind.SECRET_VALUE, "s/1"), lab.key(Kind.SECRET_VALUE, "s/2")
    first, second = await lab.entry(one), await lab.entry(two)
    await lab.put_raw(one, second.value)
    await store.view.wait_for(await lab.put_raw(two, first.value), WAIT_S)
    judge = await lab.open("late") if late else store
    for number in (1, 2):
        with pytest.raises(IntegrityError, match="secret"):
            judge.open_value("s", number)  # type: ignore[arg-type]  # plain ids
    assert {kind for kind, _ in judge.view.faults} == {Kind.SECRET_VALUE}


@pytest.mark.threat("T-03")
@pytest.mark.threat("T-03")
async def test_a_value_under_the_key_of_another_is_not_issued(
    lab: StoreLab, store: SealedStore
) -> None:
    key = lab.key(Kind.SECRET_VALUE, "s/1")
    sealed = seal_record(
        lab.keyring,
        kind=Kind.SECRET_VALUE.value,
        engine_key=key,
        generation=9,
        plaintext=encode(value("s", 2, b"two")),
        entropy=lab.entropy,
    )
    await store.view.wait_for(await lab.put_raw(key, sealed), WAIT_S)
    with pytest.raises(IntegrityError):
        store.open_value("s", 1)  # type: ignore[arg-type]  # plain ids
    assert [kind for kind, _ in store.view.faults] == [Kind.SECRET_VALUE]


# --- replays ------------------------------------------------------------------------------------


async def revoke(store: SealedStore) -> None:
    """Write a newer state of a node: what an attacker would like to undo."""
    stored = store.view.nodes.get("n1")
    assert stored is not None
    revoked = NodeRecord(id="n1", name="n1", created_at=0.0, revoked_at=1.0)
    await store.commit(Write((Replace(stored, revoked),)))


@pytest.mark.threat("T-04")
@pytest.mark.threat("T-04")
async def test_an_older_state_is_not_believed(lab: StoreLab, store: SealedStore) -> None:
    key = lab.key(Kind.NODE, "n1")
    old = (await lab.entry(key)).value
    await revoke(store)
    await store.view.wait_for(await lab.put_raw(key, old), WAIT_S)
    assert refuses_nodes(store)


@pytest.mark.threat("T-04")
@pytest.mark.threat("T-04")
async def test_an_older_state_is_not_believed_after_a_listing(
    lab: StoreLab, store: SealedStore
) -> None:
    key = lab.key(Kind.NODE, "n1")
    old = (await lab.entry(key)).value
    await revoke(store)
    await pause(store)
    revision = await lab.put_raw(key, old)
    await lab.engine.compact(revision)
    resume(store)
    await store.view.wait_for(revision, WAIT_S)
    assert refuses_nodes(store)


@pytest.mark.threat("T-04")
@pytest.mark.threat("T-04")
async def test_a_removed_record_that_was_put_back_unseen_is_not_believed(
    lab: StoreLab, store: SealedStore
) -> None:
    other = await lab.open("other")
    key = lab.key(Kind.NODE, "n1")
    old = (await lab.entry(key)).value
    await pause(store)
    await remove(other, Kind.NODE, "n1")
    revision = await lab.put_raw(key, old)
    await lab.engine.compact(revision)
    resume(store)
    await store.view.wait_for(revision, WAIT_S)
    assert refuses_nodes(store)


async def pause(store: SealedStore) -> None:
    assert store._running is not None
    store._running.cancel()
    await asyncio.wait([store._running])


def resume(store: SealedStore) -> None:
    store._running = asyncio.create_task(store._run())


@pytest.mark.threat("T-04")
@pytest.mark.threat("T-04")
async def test_a_removed_record_does_not_come_back(lab: StoreLab, store: SealedStore) -> None:
    key = lab.key(Kind.NODE, "n1")
    old = (await lab.entry(key)).value
    stored = store.view.nodes.get("n1")
    assert stored is not None
    await store.commit(Write((Remove(stored),)))
    assert store.view.nodes.get("n1") is None
    await store.view.wait_for(await lab.put_raw(key, old), WAIT_S)
    assert refuses_nodes(store)


async def remove(store: SealedStore, kind: Kind, record_id: str) -> None:
    stored = store.view.table(kind).get(record_id)
    assert stored is not None
    await store.commit(Write((Remove(stored),)))


@pytest.mark.threat("T-04")
@pytest.mark.parametrize(
    ("kind", "record"),
    [
        (Kind.TASK, task("n1")),
        (Kind.NAME, NameRecord(id="node/a", owner="n1")),
        (Kind.OPERATOR, operator("olga")),
    ],
)
@pytest.mark.threat("T-04")
async def test_an_id_that_may_return_returns_by_its_writers_only(
    lab: StoreLab, store: SealedStore, kind: Kind, record: Record
) -> None:
    key = lab.key(kind, record.id)
    earlier = [(await lab.entry(key)).value]
    await remove(store, kind, record.id)
    await store.commit(Write((Create(record),)))  # the control: created anew by a manager
    assert store.view.table(kind).get(record.id) is not None
    earlier.append((await lab.entry(key)).value)
    await remove(store, kind, record.id)
    assert not store.view.faults
    for old in earlier:
        await store.view.wait_for(await lab.put_raw(key, old), WAIT_S)
        await store.view.wait_for(await lab.write_raw(Delete(key)), WAIT_S)
    assert {fault[0] for fault in store.view.faults} == {kind}
    assert len(store.view.faults) == 2
    with pytest.raises(IntegrityError):
        store.view.table(kind).get(record.id)


@pytest.mark.threat("T-04")
@pytest.mark.threat("T-04")
async def test_an_engine_that_went_back_as_a_whole_is_not_followed(
    tmp_path: Path, lab: StoreLab, store: SealedStore, seed: int
) -> None:
    (tmp_path / "old").mkdir()
    async with sqlite_lab(tmp_path / "old", seed) as restored:
        store._ingest._engine = restored.engine
        with pytest.raises(IntegrityError):
            await store._ingest.load()
        for kind in RECORD_TYPES:
            with pytest.raises(IntegrityError):
                store.view.check(kind)
