"""`tour`: what Strongroom is, in eight steps from an empty directory to a manager that restarts."""

from docs.lab.scenarios.scenario import Scenario
from docs.lab.steps import (
    disk,
    failover,
    files,
    founding,
    isolation,
    placing,
    rotation,
    unlocking,
)

_PARTS = (founding, placing, files, isolation, disk, rotation, failover, unlocking)

SCENARIO = Scenario(
    name="tour",
    summary="the whole way: found, place, read, attack, search, rotate, lose the leader, unlock",
    steps=tuple(part.STEP for part in _PARTS),
    page="first-secret",
)
