"""Writes the trace files anew: `python -m tests.simulation.rewrite`; read the diff afterwards."""

from pathlib import Path

from tests.simulation.scenarios import SCENARIOS, trace_of

TRACES = Path(__file__).parent / "traces"

if __name__ == "__main__":
    TRACES.mkdir(exist_ok=True)
    for name in SCENARIOS:
        (TRACES / f"{name}.txt").write_text(trace_of(name))
