"""Barriers: what a manager's own transaction proves, and what it does not."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import cast

import pytest

from cluster.engine.seam import Committed, Compare, Engine, Operation, Outcome, WatchBatch
from cluster.protocol.errors import IntegrityError, StoreRolledBack
from cluster.store.barrier import FRESH_S
from cluster.store.sealed_store import Create, SealedStore, Write
from tests.support.stores import StoreLab, node


class Asked:
    """A port to a real engine that counts barriers, may answer as a restored one does, and may hold
    up what it tells of changes.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.barriers = 0
        self.restored = False
        self.answered = asyncio.Event()
        self.telling = asyncio.Event()
        self.telling.set()

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    async def barrier(self) -> int:
        self.barriers += 1
        return await self._engine.barrier()

    async def transact(
        self, request_id: bytes, compares: Sequence[Compare], operations: Sequence[Operation]
    ) -> Outcome:
        outcome = await self._engine.transact(request_id, compares, operations)
        self.answered.set()
        return Committed(1) if self.restored else outcome

    async def watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[WatchBatch]:
        async for batch in self._engine.watch(prefix, from_revision):
            await self.telling.wait()
            yield batch


async def asked(lab: StoreLab) -> tuple[Asked, SealedStore]:
    engine = Asked(lab.engine)
    return engine, await lab.open(engine=cast("Engine", engine))


async def write(store: SealedStore, name: str) -> int:
    return await store.commit(Write((Create(node(name)),)))


async def test_a_commit_since_the_moment_is_a_barrier(lab: StoreLab) -> None:
    engine, store = await asked(lab)
    begun = store.moment()
    revision = await write(store, "n1")
    assert await store.barrier(since=begun) == revision
    assert engine.barriers == 0


async def test_a_commit_of_this_manager_shows_what_another_acknowledged(lab: StoreLab) -> None:
    _, store = await asked(lab)
    other = await lab.open("m2", "b2")
    for number in range(10):
        await write(other, f"theirs-{number}")
        begun = store.moment()
        await write(store, f"ours-{number}")
        await store.barrier(since=begun)
        assert store.view.nodes.get(f"theirs-{number}") is not None


async def test_what_was_sent_before_the_moment_is_none(lab: StoreLab) -> None:
    engine, store = await asked(lab)
    await write(store, "n1")
    begun = store.moment()
    other = await lab.open("m2", "b2")
    acknowledged = await write(other, "n2")
    assert await store.barrier(since=begun) >= acknowledged
    assert engine.barriers == 1


async def test_a_commit_is_none_once_time_has_passed(lab: StoreLab) -> None:
    """A manager that was stopped after its commit decides nothing from what it knew before."""
    engine, store = await asked(lab)
    begun = store.moment()
    await write(store, "n1")
    lab.clock.advance(FRESH_S, asleep=True)
    await store.barrier(since=begun)
    assert engine.barriers == 1


@pytest.mark.parametrize(("waited_s", "barriers"), [(FRESH_S, 1), (FRESH_S / 2, 0)])
async def test_a_commit_that_is_shown_late_is_none(
    lab: StoreLab, waited_s: float, barriers: int
) -> None:
    """While the view caught up, a removal may have been acknowledged elsewhere."""
    engine, store = await asked(lab)
    begun = store.moment()
    engine.telling.clear()
    writing = asyncio.create_task(write(store, "n1"))
    await engine.answered.wait()
    waiting = asyncio.create_task(store.barrier(since=begun))
    await asyncio.sleep(0)
    lab.clock.advance(waited_s, asleep=True)
    engine.telling.set()
    assert await waiting >= await writing
    assert engine.barriers == barriers


async def test_without_a_moment_the_quorum_is_asked(lab: StoreLab) -> None:
    engine, store = await asked(lab)
    await write(store, "n1")
    await store.barrier()
    assert engine.barriers == 1


async def test_a_commit_notices_an_engine_that_went_back(lab: StoreLab) -> None:
    engine, store = await asked(lab)
    engine.restored = True
    with pytest.raises(StoreRolledBack):
        await write(store, "n1")
    with pytest.raises(IntegrityError):
        store.view.nodes.get("n1")
