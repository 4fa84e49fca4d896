"""A control layer over SQLite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.stores import StoreLab, sqlite_lab
from tests.unit.control.lab import ControlLab
from tests.unit.control.rollout_lab import Fleet
from tests.unit.control.rotation_lab import RotationLab


@pytest.fixture
async def stores(tmp_path: Path, seed: int) -> AsyncIterator[StoreLab]:
    async with sqlite_lab(tmp_path, seed) as lab:
        yield lab


@pytest.fixture
async def lab(stores: StoreLab) -> ControlLab:
    lab = ControlLab(stores, await stores.open("m1"))
    await lab.initialise()
    return lab


@pytest.fixture
async def second(lab: ControlLab, stores: StoreLab) -> ControlLab:
    """Another manager on the same engine."""
    return ControlLab(stores, await stores.open("m2", "b2"))


@pytest.fixture
async def rotating(lab: ControlLab) -> RotationLab:
    """A secret that rotates by itself, in use on a node, known to a third party."""
    rotating = RotationLab(lab)
    await rotating.initialise()
    return rotating


@pytest.fixture
def fleet(lab: ControlLab) -> Fleet:
    """Three nodes that do not have their service yet."""
    return Fleet(lab)
