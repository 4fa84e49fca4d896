"""A store lab over SQLite for the store's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.store.sealed_store import SealedStore
from tests.support.stores import StoreLab, sqlite_lab


@pytest.fixture
async def lab(tmp_path: Path, seed: int) -> AsyncIterator[StoreLab]:
    async with sqlite_lab(tmp_path, seed) as lab:
        yield lab


@pytest.fixture
async def store(lab: StoreLab) -> SealedStore:
    return await lab.open()
