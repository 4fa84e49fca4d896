"""One check of raftos beside etcd: `python -m docs.lab.raftos.exhibit CHECK`.

Runs the check with each kind of cluster at the same time, and prints a row an observation with a
column a kind. What the rows should say is the scenario's to judge (`docs.lab.steps.raftos`).
"""

import argparse
import asyncio
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from docs.lab.raftos import checks
from docs.lab.raftos.checks import Observed, Start
from docs.lab.raftos.etcd_cluster import etcd_cluster
from docs.lab.raftos.etcd_votes import etcd_votes
from docs.lab.raftos.raftos_cluster import raftos_cluster
from docs.lab.raftos.votes import raftos_votes

RAFTOS, REPAIRED, ETCD = "raftos", "repaired", "etcd"
_ANSWERS_S = 60.0
_SILENCE_S = 8.0
"""Some elections' worth, for who is known not to answer."""
_NEVER_S = 4.0
"""For a write that a leader which is there does not answer."""
_TRIES = 3
_TRY_S = 20.0
Run = Callable[[], Awaitable[Observed]]


class Exhibit:
    """The programs, and where they may write."""

    def __init__(self, python: Path, etcd: Path, directory: Path) -> None:
        self._python = python
        self._etcd = etcd
        self._directory = directory

    def runs(self, check: str) -> dict[str, Run]:
        """Return what runs a check, by kind."""
        if check == "votes":
            return {
                RAFTOS: partial(raftos_votes, self._python, self._directory / RAFTOS),
                ETCD: partial(etcd_votes, self._etcd, self._version(), self._directory / ETCD),
            }
        starts = {RAFTOS: self._start_raftos(RAFTOS), ETCD: self._start_etcd()}
        if check == "split":
            split = checks.split
            repaired = self._start_raftos(REPAIRED, repaired=True)
            return {
                RAFTOS: partial(self._split_of_raftos, _TRIES),
                REPAIRED: partial(split, repaired, _SILENCE_S),
                ETCD: partial(split, starts[ETCD], _SILENCE_S, goes_on=True),
            }
        run = {"together": checks.together, "large": checks.large}[check]
        return {
            RAFTOS: partial(run, starts[RAFTOS], _NEVER_S),
            ETCD: partial(run, starts[ETCD], _ANSWERS_S),
        }

    async def _split_of_raftos(self, tries: int) -> Observed:
        """Try again where not both sides acknowledged.

        A leader that loses its lead on a busy machine leaves its writer waiting for ever; that is
        not what is shown here. What the others never do, they are asked to do once.
        """
        start = self._start_raftos(f"{RAFTOS}/{tries}")
        seen = await checks.split(start, _TRY_S)
        if seen[checks.SIDES] == 2 or tries == 1:
            return seen
        return await self._split_of_raftos(tries - 1)

    def _start_raftos(self, name: str, *, repaired: bool = False) -> Start:
        directory = self._directory / name
        return lambda count: raftos_cluster(self._python, directory, count, repaired=repaired)

    def _start_etcd(self) -> Start:
        return lambda count: etcd_cluster(self._etcd, self._directory / ETCD, count)

    def _version(self) -> str:
        told = subprocess.run([self._etcd, "--version"], capture_output=True, text=True, check=True)
        found = re.search(r"etcd Version: (\S+)", told.stdout)
        return found[1] if found else ""


async def observe(runs: Mapping[str, Run]) -> dict[str, Observed]:
    """Run all of them at once."""
    async with asyncio.TaskGroup() as group:
        tasks = {kind: group.create_task(_awaited(run)) for kind, run in runs.items()}
    return {kind: task.result() for kind, task in tasks.items()}


async def _awaited(run: Run) -> Observed:
    return await run()


def table(observed: Mapping[str, Observed]) -> str:
    """Return a row an observation, a column a kind."""
    claims = next(iter(observed.values()))
    rows = [["", *observed]]
    rows += [[claim, *(str(one[claim]) for one in observed.values())] for claim in claims]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run one check and print what was seen."""
    parser = argparse.ArgumentParser(prog="exhibit")
    parser.add_argument("check", choices=["split", "together", "large", "votes"])
    parser.add_argument("--python", type=Path, required=True, help="of raftos' own venv")
    parser.add_argument("--etcd", type=Path, required=True)
    parser.add_argument("--directory", type=Path, required=True, help="a new one")
    arguments = parser.parse_args()
    exhibit = Exhibit(
        arguments.python.absolute(), arguments.etcd.resolve(), arguments.directory.resolve()
    )
    for kind in (RAFTOS, REPAIRED, ETCD):
        (arguments.directory / kind).mkdir(parents=True, exist_ok=True)
    sys.stdout.write(table(asyncio.run(observe(exhibit.runs(arguments.check)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
