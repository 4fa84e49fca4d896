"""Measures running clusters: a Markdown table, `build/bench/latest.json` and `latest.md`.

    python -m tests.bench.run [--full] [--publish] [NAME ...]

Needs root, as agents do. Figures hold for this machine and its load, which each row names.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.bench.commands import commands
from tests.bench.deliveries import deliveries
from tests.bench.elections import elections
from tests.bench.envelopes import envelopes
from tests.bench.fleets import by_agents, fleet
from tests.bench.floors import as_table as distances_table
from tests.bench.floors import distances, floors, measured
from tests.bench.growth import by_secrets, by_services
from tests.bench.maximums import maximums
from tests.bench.memory import memory
from tests.bench.published import publish, publish_floors
from tests.bench.requests import requests
from tests.bench.rows import Row, as_table, save
from tests.bench.stage import FULL, QUICK, Size, Stage, end_in_order, stage

LATEST: Final = Path(__file__).parents[2] / "build" / "bench" / "latest.json"
TOGETHER: Final[dict[str, Callable[[Stage], Iterable[Row]]]] = {
    "floors": floors,
    "commands": commands,
    "deliveries": deliveries,
    "requests": requests,
    "memory": memory,
    "elections": elections,
}
"""Measured one after the other on one cluster of three managers."""
APART: Final[dict[str, Callable[[Stage], Iterable[Row]]]] = {
    "maximums": maximums,
}
"""Each on three managers of its own, which it fills."""
ALONE: Final[dict[str, Callable[[Size], Iterable[Row]]]] = {
    "secrets": by_secrets,
    "services": by_services,
    "envelopes": lambda _: envelopes(),
    "fleet": fleet,
    "agents": by_agents,
}
"""Each makes what it needs."""
NAMES: Final = (*TOGETHER, *APART, *ALONE)
QUICKLY: Final = (*TOGETHER, "envelopes", "fleet")


def measure(names: Sequence[str], size: Size) -> Iterator[Row]:
    """Yield the rows of the measurements named, each as it is done."""
    together = [name for name in TOGETHER if name in names]
    if together:
        with stage(size) as shared:
            for name in together:
                yield from TOGETHER[name](shared)
    for name in APART:
        if name in names:
            with stage(size) as own:
                yield from APART[name](own)
    for name in ALONE:
        if name in names:
            yield from ALONE[name](size)


def main(arguments: list[str]) -> int:
    """Run the chosen measurements."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="repeat more, and measure everything")
    parser.add_argument("--publish", action="store_true", help="write docs/reference/benchmarks.md")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.names if name not in NAMES]
    if asked.publish and asked.names:
        parser.error("what is published is a whole run: leave out the names")
    if unknown:
        parser.error(f"no such measurement: {unknown[0]}; there are {', '.join(NAMES)}")
    names = asked.names or (NAMES if asked.full else QUICKLY)
    rows: list[Row] = []
    for row in measure(names, FULL if asked.full else QUICK):
        rows.append(row)
        save(rows, LATEST)  # a run that is ended leaves what it measured
        sys.stderr.write(f"{row.name}: {row.value:g} {row.unit} ({row.low:g} to {row.high:g})\n")
    far = distances_table(distances(measured(rows)))
    if asked.publish:
        publish("own", rows)
        publish_floors(far)
    sys.stdout.write(f"{as_table(rows)}\n\n{far}\n")
    return 0


if __name__ == "__main__":
    end_in_order()
    sys.exit(main(sys.argv[1:]))
