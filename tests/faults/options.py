"""The options of a run, and the command that repeats it."""

import argparse
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

OUTPUT = Path("build/faults")


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is told."""

    minutes: float
    managers: int
    agents: int
    clients: int
    seed: int
    only: tuple[str, ...]
    overlap: float
    output: Path
    keep: bool

    def replay(self) -> str:
        """Return the command that draws the same faults and operations again."""
        words = [
            "python -m tests.faults",
            f"--minutes {self.minutes:g} --managers {self.managers} --agents {self.agents}",
            f"--clients {self.clients} --seed {self.seed} --overlap {self.overlap:g}",
        ]
        return " ".join([*words, *([f"--only {','.join(self.only)}"] if self.only else [])])


def parse(arguments: Sequence[str]) -> Options:
    """Return the options in a command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--managers", type=int, default=3)
    parser.add_argument("--agents", type=int, default=3)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0, help="0: drawn")
    parser.add_argument("--only", default="", help="faults, by their beginnings, with commas")
    parser.add_argument("--overlap", type=float, default=0.25, help="share of faults with another")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--keep", action="store_true", help="keep the histories of a good run too")
    told = parser.parse_args(arguments)
    return Options(
        minutes=told.minutes,
        managers=told.managers,
        agents=told.agents,
        clients=told.clients,
        seed=told.seed or secrets.randbelow(10**6) + 1,
        only=tuple(word for word in told.only.split(",") if word),
        overlap=told.overlap,
        output=told.output,
        keep=told.keep,
    )
