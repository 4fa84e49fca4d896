"""Every scenario of the lab, in the order of `--list`. A new one is a module and a line here."""

from docs.lab.scenarios import (
    bad_rotation,
    by_itself,
    compromise,
    deadman,
    encryption,
    failover,
    hostile_app,
    locked,
    raftos,
    red_to_red,
    stolen_worker,
    tour,
)
from docs.lab.scenarios.scenario import Scenario
from docs.lab.shell import LabError

SCENARIOS = (
    tour.SCENARIO,
    encryption.SCENARIO,
    stolen_worker.SCENARIO,
    failover.SCENARIO,
    locked.SCENARIO,
    hostile_app.SCENARIO,
    by_itself.SCENARIO,
    bad_rotation.SCENARIO,
    compromise.SCENARIO,
    deadman.SCENARIO,
    red_to_red.SCENARIO,
    raftos.SCENARIO,
)
DEFAULT = tour.SCENARIO


def scenario_named(name: str) -> Scenario:
    """Return a scenario; raise LabError with the names there are."""
    for scenario in SCENARIOS:
        if scenario.name == name:
            return scenario
    names = ", ".join(scenario.name for scenario in SCENARIOS)
    raise LabError(f"there is no scenario {name!r}; there are {names}")
