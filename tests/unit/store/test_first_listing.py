"""The first listing: taken in as it comes, and made good where it broke off."""

import gc
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cluster.engine.seam import Page
from cluster.engine.sqlite import SqliteEngine
from cluster.protocol.errors import Compacted, NoQuorum
from cluster.protocol.ids import ManagerId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.keyring import new_keyring
from cluster.store import ingest
from cluster.store.records import CLUSTER_ID
from cluster.store.sealed_store import Create, Remove, SealedStore, Write, bootstrap_store
from tests.support.clock import ManualClock
from tests.support.entropy import SeededEntropy
from tests.support.stores import StoreLab, UnreliableEngine, cluster_record, node


class CompactedEngine(UnreliableEngine):
    """A port to a real engine whose history is compacted in the middle of its first listing."""

    def __init__(self, lab: StoreLab, after: int, meanwhile: Callable[[], Awaitable[None]]) -> None:
        super().__init__(lab.engine)
        self._left = after
        self._meanwhile = meanwhile

    async def list_page(self, *args: object, **kwargs: object) -> Page:
        """Pass on, until the history is gone, once."""
        self._left -= 1
        if self._left == 0:
            await self._meanwhile()
            raise Compacted(1)
        page: Page = await self._engine.list_page(*args, **kwargs)  # type: ignore[arg-type]  # as they came
        return page


@pytest.mark.parametrize("after", [2, 5, 9, 14])
async def test_a_listing_that_broke_off_is_made_good_by_the_next(lab: StoreLab, after: int) -> None:
    store = await lab.open()
    await store.commit(Write(tuple(Create(node(f"n{number}")) for number in range(6))))

    async def change() -> None:
        stored = store.view.nodes.get("n0")
        assert stored is not None
        await store.commit(Write((Remove(stored), Create(node("later")))))

    engine = CompactedEngine(lab, after, change)
    other = await lab.open("m2", "b2", engine=engine)  # type: ignore[arg-type]  # a port
    assert set(other.view.nodes) == {"later", *(f"n{number}" for number in range(1, 6))}
    assert other.view.faults == ()
    assert gc.isenabled()


class StandingEngine(UnreliableEngine):
    """A port to a real engine that stands still for a while, some pages after the first."""

    def __init__(self, lab: StoreLab, *, after: int, pages: int) -> None:
        super().__init__(lab.engine)
        self._still = range(after, after + pages)
        self.asked = 0

    async def list_page(self, *args: object, **kwargs: object) -> Page:
        """Pass on, less while it stands."""
        self.asked += 1
        if self.asked in self._still:
            raise NoQuorum
        page: Page = await self._engine.list_page(*args, **kwargs)  # type: ignore[arg-type]  # as they came
        return page


async def test_a_listing_goes_on_where_the_engine_stood_still(
    lab: StoreLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "RETRY_S", 0)
    store = await lab.open()
    await store.commit(Write(tuple(Create(node(f"n{number}")) for number in range(6))))
    whole = StandingEngine(lab, after=0, pages=0)
    await lab.open("m2", "b2", engine=whole)  # type: ignore[arg-type]  # a port
    engine = StandingEngine(lab, after=5, pages=4)
    other = await lab.open("m3", "b3", engine=engine)  # type: ignore[arg-type]  # a port
    assert set(other.view.nodes) == {f"n{number}" for number in range(6)}
    assert engine.asked == whole.asked + 4


async def test_a_listing_does_not_wait_for_ever(
    lab: StoreLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "RETRY_S", 0)
    await lab.open()
    engine = StandingEngine(lab, after=5, pages=1_000_000)
    with pytest.raises(NoQuorum):
        await lab.open("m2", "b2", engine=engine)  # type: ignore[arg-type]  # a port


async def test_the_collector_runs_again_after_a_listing_that_failed(lab: StoreLab) -> None:
    async def nothing() -> None:
        raise RuntimeError("the engine is gone")

    with pytest.raises(RuntimeError):
        await lab.open("m3", "b3", engine=CompactedEngine(lab, 3, nothing))  # type: ignore[arg-type]  # a port
    assert gc.isenabled()


async def test_a_closed_store_leaves_the_memory(
    lab: StoreLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large it was: a manager whose engine is exchanged has but one in memory."""
    monkeypatch.setattr(ingest, "MANY", 1)
    store = await SealedStore.open(
        lab.engine,
        lab.keyring,
        manager_id=ManagerId("m2"),
        boot="b2",
        clock=lab.clock,
        entropy=lab.entropy,
    )
    assert gc.get_freeze_count() > 0, "the control"
    view = weakref.ref(store.view)
    await store.close()
    del store
    gc.collect()
    assert view() is None


async def test_a_store_that_was_empty_tells_its_subscribers_of_the_next_listing(
    tmp_path: Path, seed: int
) -> None:
    engine = await SqliteEngine.open(tmp_path / "store.db", ManualClock())
    entropy = SeededEntropy(seed)
    root_key, keyring = SecretBytes(entropy.token(32)), new_keyring(entropy)
    lab = StoreLab(engine, keyring, root_key, seed)
    try:
        store = await lab.open()
        heard: list[str] = []
        store.view.subscribe(lambda change: heard.extend(one.id for one in change.changed))
        wrapped = keyring.wrap(root_key, entropy)
        await bootstrap_store(engine, keyring, wrapped, [cluster_record()], entropy)
        await store._ingest.load()
        assert heard == [CLUSTER_ID]
    finally:
        await lab.close()
