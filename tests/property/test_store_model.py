"""Random interleavings of writes from two managers, against a naive model.

The model is one dictionary. A write succeeds if and only if nothing it was decided from has
changed; nothing that was acknowledged is lost; both managers end with what the model holds, and
without a fault.
"""

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.protocol.errors import AlreadyExists, StaleVersion
from cluster.store.audit_chain import read_chain, verify_chain
from cluster.store.records import NameRecord
from cluster.store.sealed_store import Create, Remove, Replace, SealedStore, Step, Write
from cluster.store.view import Stored
from tests.support.stores import sqlite_lab

IDS = ("secret/a", "secret/b", "secret/c")


@dataclass(frozen=True)
class Act:
    """One step of one manager, from the present state (`fresh`) or from what it read before."""

    manager: int
    what: str
    record_id: str
    fresh: bool


ACTS = st.builds(
    Act,
    manager=st.integers(0, 1),
    what=st.sampled_from(["create", "replace", "remove"]),
    record_id=st.sampled_from(IDS),
    fresh=st.booleans(),
)


class Runner:
    """Plays acts one after another, keeping the model beside the stores."""

    def __init__(self, stores: list[SealedStore]) -> None:
        self.stores = stores
        self.model: dict[str, tuple[str, int]] = {}
        """Id -> owner and the number of the write that gave it."""
        self.read: dict[tuple[int, str], tuple[Stored[NameRecord], int]] = {}
        self.number = 0

    async def play(self, act: Act) -> None:
        store = self.stores[act.manager]
        if act.fresh:
            await self.look(act)
        expected, step, after = self.decide(act)
        if step is None:
            return
        try:
            await store.commit(Write((step,)))
        except (StaleVersion, AlreadyExists):
            assert not expected
            return
        assert expected
        if after is None:
            del self.model[act.record_id]
        else:
            self.model[act.record_id] = (after.owner, self.number)

    async def look(self, act: Act) -> None:
        store = self.stores[act.manager]
        await store.barrier()
        stored = store.view.names.get(act.record_id)
        model = self.model.get(act.record_id)
        assert (stored.record.owner if stored else None) == (model[0] if model else None)
        if stored is not None and model is not None:
            self.read[act.manager, act.record_id] = (stored, model[1])

    def decide(self, act: Act) -> tuple[bool, Step | None, NameRecord | None]:
        """Return whether the act will succeed, what to commit, and the state it leaves."""
        self.number += 1
        record = NameRecord(id=act.record_id, owner=f"owner-{self.number}")
        model = self.model.get(act.record_id)
        if act.what == "create":
            return model is None, Create(record), record
        if (act.manager, act.record_id) not in self.read:
            return False, None, None
        stored, number = self.read[act.manager, act.record_id]
        expected = model is not None and model[1] == number
        if act.what == "replace":
            return expected, Replace(stored, record), record
        return expected, Remove(stored), None

    async def check(self) -> None:
        for store in self.stores:
            await store.barrier()
            held = {stored.record.id: stored.record.owner for stored in store.view.names.values()}
            assert held == {record_id: owner for record_id, (owner, _) in self.model.items()}
            assert store.view.faults == ()


async def play(acts: list[Act], seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with sqlite_lab(Path(directory), seed) as lab:
            runner = Runner([await lab.open("m1"), await lab.open("m2")])
            for act in acts:
                await runner.play(act)
            await runner.check()
            # Who starts now sees the same.
            runner.stores.append(await lab.open("m3"))
            await runner.check()


@settings(max_examples=40)
@given(acts=st.lists(ACTS, min_size=1, max_size=25), seed=st.integers(0, 2**32))
def test_two_managers_equal_a_naive_model(acts: list[Act], seed: int) -> None:
    asyncio.run(play(acts, seed))


async def count_up(rounds: list[int], seed: int) -> None:
    """Raise a counter from both managers at once, `rounds[i]` times on manager i % 2."""
    with tempfile.TemporaryDirectory() as directory:
        async with sqlite_lab(Path(directory), seed) as lab:
            stores = [await lab.open("m1"), await lab.open("m2")]
            await stores[0].commit(Write((Create(NameRecord(id="secret/n", owner="0")),)))
            await stores[1].barrier()
            landed: list[int] = []

            async def raise_it(store: SealedStore) -> None:
                stored = store.view.names.get("secret/n")
                assert stored is not None
                number = int(stored.record.owner) + 1
                record = NameRecord(id="secret/n", owner=str(number))
                try:
                    await store.commit(Write((Replace(stored, record),)))
                except StaleVersion as stale:
                    await store.view.wait_for(stale.revision, 30.0)
                else:
                    landed.append(number)

            for width in rounds:
                await asyncio.gather(*(raise_it(stores[n % 2]) for n in range(width)))
            await stores[0].barrier()
            final = stores[0].view.names.get("secret/n")
            assert final is not None
            # Each acknowledged write built on the one before: no value landed twice, none is
            # missing.
            assert sorted(landed) == list(range(1, int(final.record.owner) + 1))
            for stream in stores[0].view.audit_streams:
                verify_chain([link async for link in read_chain(lab.engine, lab.keyring, stream)])


@settings(max_examples=20)
@given(rounds=st.lists(st.integers(1, 12), min_size=1, max_size=8), seed=st.integers(0, 2**32))
def test_a_stale_write_never_overwrites(rounds: list[int], seed: int) -> None:
    asyncio.run(count_up(rounds, seed))
