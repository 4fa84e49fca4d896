"""Whether a record can be written is found out by writing one; the duties follow, not at once."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import writability
from cluster.engine.seam import EngineStatus, OutcomeUnknown
from cluster.protocol.errors import StorageFull
from cluster.protocol.ids import ManagerId
from cluster.store.sealed_store import SealedStore
from cluster.writability import Writability
from tests.support.stores import StoreLab, sqlite_lab


class Failing:
    """A port to a real engine: it reads well, and writes as a test says."""

    def __init__(self, lab: StoreLab) -> None:
        self._engine = lab.engine
        self.outcome: Any = None
        self.alarms: tuple[str, ...] = ()

    async def status(self) -> EngineStatus:
        return replace(await self._engine.status(), alarms=self.alarms)

    async def transact(self, *asked: Any) -> Any:  # noqa: ANN401  # passed on
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome or await self._engine.transact(*asked)


@pytest.fixture
async def stores(tmp_path: Path, seed: int) -> AsyncIterator[StoreLab]:
    async with sqlite_lab(tmp_path, seed) as lab:
        yield lab


@pytest.fixture
async def store(stores: StoreLab) -> SealedStore:
    return await stores.open("m1")


@pytest.fixture
def engine(stores: StoreLab) -> Failing:
    return Failing(stores)


@pytest.fixture
def looking(stores: StoreLab, store: SealedStore, engine: Failing) -> Writability:
    return Writability(engine, store, ManagerId("m1"), stores.clock, stores.entropy)  # type: ignore[arg-type]  # a port


async def test_look_writes(stores: StoreLab, looking: Writability) -> None:
    before = (await stores.engine.status()).revision
    await looking.look()
    assert looking.reason == ""
    assert (await stores.engine.status()).revision > before


@pytest.mark.parametrize(
    ("outcome", "alarms", "reason"),
    [
        (OutcomeUnknown("lost"), (), writability.NO_QUORUM),
        (StorageFull(), (), writability.FULL),
        (None, ("memberID:1 alarm:NOSPACE",), writability.FULL),
        (None, ("no space",), writability.FULL),
        (None, ("memberID:1 alarm:CORRUPT",), writability.ALARM),
    ],
)
async def test_store_that_reads_well_and_does_not_write_is_told(
    store: SealedStore,
    engine: Failing,
    looking: Writability,
    outcome: object,
    alarms: tuple[str, ...],
    reason: str,
) -> None:
    """A barrier alone would find nothing."""
    engine.outcome, engine.alarms = outcome, alarms
    await store.barrier()
    await looking.look()
    assert looking.reason == reason
    engine.outcome, engine.alarms = None, ()
    await looking.look()
    assert looking.reason == ""


async def test_duties_are_given_up_only_after_a_while(
    stores: StoreLab, engine: Failing, looking: Writability
) -> None:
    await looking.look()
    stores.clock.advance(writability.GIVE_UP_S)
    assert not looking.is_lost()
    engine.outcome = OutcomeUnknown("lost")
    await looking.look()
    assert looking.is_lost()
    engine.outcome = None
    await looking.look()
    assert not looking.is_lost()
    engine.outcome = OutcomeUnknown("lost")
    await looking.look()
    assert not looking.is_lost()


async def test_view_that_does_not_show_what_was_written_is_told(
    looking: Writability, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine takes writes, and the manager's watch of it has ended."""
    await looking.look()
    assert looking.reason == ""
    await looking.store.close()
    monkeypatch.setattr(writability, "LOOK_S", 0.3)
    await looking.look()
    assert looking.reason == writability.BEHIND
