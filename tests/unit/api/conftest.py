"""An API over SQLite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.stores import StoreLab, sqlite_lab
from tests.unit.api.lab import ApiLab


@pytest.fixture
async def stores(tmp_path: Path, seed: int) -> AsyncIterator[StoreLab]:
    async with sqlite_lab(tmp_path, seed) as lab:
        yield lab


@pytest.fixture
async def lab(stores: StoreLab) -> ApiLab:
    lab = ApiLab(stores, await stores.open("m1"))
    await lab.initialise()
    return lab
