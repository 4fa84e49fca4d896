"""A dispatcher over SQLite."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from cluster.engine.seam import Engine
from tests.support.stores import StoreLab, sqlite_lab
from tests.unit.dispatcher.lab import DispatchLab, WatchedEngine


@pytest.fixture
async def stores(tmp_path: Path, seed: int) -> AsyncIterator[StoreLab]:
    async with sqlite_lab(tmp_path, seed) as lab:
        yield lab


@pytest.fixture
async def engine(stores: StoreLab) -> WatchedEngine:
    return WatchedEngine(stores.engine, stores.clock)


@pytest.fixture
async def lab(stores: StoreLab, engine: WatchedEngine) -> DispatchLab:
    store = await stores.open("m1", engine=cast("Engine", engine))
    lab = DispatchLab(stores, store)
    await lab.initialise()
    return lab
