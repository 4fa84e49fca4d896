"""Measures the same work on Strongroom and its peers, turn by turn in one run.

    python -m tests.bench.peers.run [--full] [--publish] [--only PEER ...]

Prints a Markdown table and writes `build/bench/latest.json`. A ratio counts, an absolute time does
not: the sides share the machine with each other, and run all through the comparison.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Final

from tests.bench.peers.openbao import openbao
from tests.bench.peers.sides import Amount, CannotRun, Side, Work
from tests.bench.peers.strongroom import strongroom
from tests.bench.peers.swarm import swarm
from tests.bench.published import publish
from tests.bench.rows import Row, as_table, save
from tests.bench.run import LATEST
from tests.bench.stage import QUICK, end_in_order

PEERS: Final[dict[str, Callable[[], AbstractContextManager[Side]]]] = {
    "openbao": openbao,
    "swarm": swarm,
}
REPEATED: Final = tuple(work for work in Work if work is not Work.LOSE_LEADER)
ROTATIONS: Final = 5
"""A sample of rotations is the median of so many."""
Samples = dict[tuple[Work, str], list[float]]


def main(arguments: list[str]) -> int:
    """Compare."""
    parser = argparse.ArgumentParser(
        prog="make bench-peers", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--full", action="store_true", help="repeat more")
    parser.add_argument("--publish", action="store_true", help="write docs/reference/benchmarks.md")
    parser.add_argument("--only", nargs="*", choices=PEERS, default=list(PEERS), metavar="PEER")
    asked = parser.parse_args(arguments)
    amount, rounds, losses = (
        (Amount(2_000, 5_000), 9, 5) if asked.full else (Amount(400, 800), 3, 3)
    )
    with ExitStack() as stack:
        sides, missing = _started(stack, asked.only)
        samples = compare(sides, amount, rounds, losses)
        rows = [*rows_of(sides, samples), *_memory(sides), *missing]
    save(rows, LATEST)
    if asked.publish:
        publish("peers", rows)
    sys.stdout.write(as_table(rows) + "\n")
    return 0


def _started(stack: ExitStack, names: Sequence[str]) -> tuple[list[Side], list[Row]]:
    """Return the sides that run, and a row for each that cannot."""
    sides: list[Side] = [stack.enter_context(strongroom(QUICK))]
    missing = []
    for name in names:
        try:
            sides.append(stack.enter_context(PEERS[name]()))
        except CannotRun as error:
            missing.append(Row.missing(name, str(error)))
    return sides, missing


def compare(sides: Sequence[Side], amount: Amount, rounds: int, losses: int) -> Samples:
    """Let the sides take turns; who begins changes from round to round."""
    samples: Samples = defaultdict(list)
    turns: list[tuple[Work, int]] = [(work, turn) for turn in range(rounds) for work in REPEATED]
    turns += [(Work.LOSE_LEADER, turn) for turn in range(losses)]
    for work, turn in turns:
        for at in range(len(sides)):
            side = sides[(at + turn) % len(sides)]
            found = _sample(side, work, amount)
            if found is not None:
                samples[work, side.name].append(found)
                sys.stderr.write(f"{work}: {side.name} {found:.4g}\n")
    return samples


def _sample(side: Side, work: Work, amount: Amount) -> float | None:
    times = ROTATIONS if work is Work.ROTATE else 1
    found = [one for one in (side.sample(work, amount) for _ in range(times)) if one is not None]
    return statistics.median(found) if found else None


def rows_of(sides: Sequence[Side], samples: Samples) -> list[Row]:
    """Return a row for each side and work, and how many times ours is ahead of each peer."""
    rows = []
    ours, *peers = sides
    for work in Work:
        unit = "1/s" if work.is_rate else "ms" if work is Work.LIST else "s"
        for side in sides:
            if found := samples[work, side.name]:
                note = side.notes.get(work, "")
                rows.append(Row.of(f"{work}: {side.name}", unit, found, note=note))
        own = samples[work, ours.name]
        for peer in peers:
            if theirs := samples[work, peer.name]:
                ahead = [
                    mine / other if work.is_rate else other / mine
                    for mine, other in zip(own, theirs, strict=True)
                ]
                rows.append(Row.of(f"{work}: ahead of {peer.name}", "times", ahead))
    return rows


def _memory(sides: Sequence[Side]) -> list[Row]:
    return [
        Row.of(f"memory, {what}: {side.name}", "MB", [megabytes])
        for side in sides
        for what, megabytes in side.memory().items()
    ]


if __name__ == "__main__":
    end_in_order()
    sys.exit(main(sys.argv[1:]))
