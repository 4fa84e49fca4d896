"""Each scenario goes as its trace file says; `python -m tests.simulation.rewrite` renews them."""

from pathlib import Path

import pytest

from tests.simulation.scenarios import SCENARIOS, trace_of

TRACES = Path(__file__).parent / "traces"


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_follows_its_trace(name: str) -> None:
    assert trace_of(name) == (TRACES / f"{name}.txt").read_text()


def test_every_trace_has_its_scenario() -> None:
    assert {path.stem for path in TRACES.glob("*.txt")} == set(SCENARIOS)
