"""Measures a running cluster: a Markdown table on standard output, `build/bench/latest.json`.

    python -m tests.bench.run [sqlite] [etcd] [envelope]

Needs root, as agents do. Figures hold for this machine and its load, which each row names.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.bench.envelopes import envelopes
from tests.bench.measurements import on_one_manager, on_three_managers
from tests.bench.rows import Row, as_table, save

LATEST: Final = Path(__file__).parents[2] / "build" / "bench" / "latest.json"
SUITES: Final[dict[str, Callable[[], list[Row]]]] = {
    "sqlite": on_one_manager,
    "etcd": on_three_managers,
    "envelope": envelopes,
}


def main(chosen: list[str]) -> int:
    """Run the chosen suites, or all."""
    unknown = [name for name in chosen if name not in SUITES]
    if unknown:
        sys.stderr.write(f"no such suite: {unknown[0]}; there are {', '.join(SUITES)}\n")
        return 2
    rows = [row for name in chosen or SUITES for row in SUITES[name]()]
    save(rows, LATEST)
    sys.stdout.write(as_table(rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
