"""The options of a run, and the command that repeats it."""

import argparse
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OUTPUT: Final = Path("build/scale")
BEHIND_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is told."""

    agents: int
    secrets: int
    services: int
    minutes: float
    engine: str
    seed: int
    behind_s: float
    """How long a running agent may lack what was rotated."""
    output: Path

    @property
    def replicas(self) -> int:
        """How many tasks each service has."""
        return min(3, self.agents)

    def replay(self) -> str:
        """Return the command that draws the same churn again."""
        return (
            f"python -m tests.scale --agents {self.agents} --secrets {self.secrets} "
            f"--services {self.services} --minutes {self.minutes:g} --engine {self.engine} "
            f"--behind {self.behind_s:g} --seed {self.seed}"
        )


def parse(arguments: Sequence[str]) -> Options:
    """Return the options in a command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.scale")
    parser.add_argument("--agents", type=int, default=1_000)
    parser.add_argument("--secrets", type=int, default=10_000)
    parser.add_argument("--services", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=5.0, help="of churn")
    parser.add_argument("--engine", choices=("sqlite", "etcd"), default="sqlite")
    parser.add_argument("--seed", type=int, default=0, help="0: drawn")
    parser.add_argument("--behind", type=float, default=BEHIND_S, help="seconds; see the judgement")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    told = parser.parse_args(arguments)
    if told.services >= told.secrets or told.agents < 2:
        parser.error("it takes two agents, and more secrets than services")
    return Options(
        agents=told.agents,
        secrets=told.secrets,
        services=told.services,
        minutes=told.minutes,
        engine=told.engine,
        seed=told.seed or secrets.randbelow(10**6) + 1,
        behind_s=told.behind,
        output=told.output,
    )
