"""How a cluster of many nodes is laid out: unit costs that were measured, times how many there are.

    python -m tests.scale.layout [--nodes 10000] [--secrets 10000] [--publish]

Pure but for `--publish`, which writes the table into docs/reference/limits.md. The costs are the
highest of the runs in docs/reference/scale.md: `make scale` measures them, and here they change.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.published import replaced

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "limits.md"
SECTION: Final = "layout"
MANAGERS: Final = (3, 5)
RENEWED_AT: Final = 0.65
"""Of a certificate's life, on average: it is renewed after a random half to four fifths of it."""
CERTIFICATE_S: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class UnitCosts:
    """What one of each takes of a manager: memory in KB, processor time in milliseconds."""

    manager_kb: float = 86_000
    """A manager that serves one agent."""
    session_kb: float = 140
    record_kb: float = 1.0
    """Of the view, for each record: a secret has three and takes 2.9."""
    receipt_kb: float = 2.1
    """Of the view, for a receipt: it is looked up by node, by secret and by service."""
    node_kb: float = 14
    """What a node that joined leaves in a manager's memory."""
    sealed_kb: float = 0.5
    """In the engine, for a receipt: computed from its key and its content, sealed and padded."""
    session_ms_each_s: float = 0.08
    """A session, in a run with 5,000 agents and churn: all processor time, divided by them."""
    join_ms: float = 8.0
    first_session_ms: float = 8.5
    delivery_ms: float = 5.8
    """One agent's part of a rotation: receipt, value, report."""


MEASURED: Final = UnitCosts()


@dataclass(frozen=True, slots=True)
class Layout:
    """What `nodes` agents ask of each of some managers."""

    nodes: int
    managers: int
    secrets: int
    costs: UnitCosts = MEASURED

    @property
    def lost(self) -> int:
        """Managers that may be down while a majority is up."""
        return (self.managers - 1) // 2

    def sessions(self, down: int = 0) -> int:
        """Return how many agents each manager serves while some are down."""
        return -(-self.nodes // (self.managers - down))

    @property
    def memory_mb(self) -> float:
        """With as many managers down as may be. Each node has a service's task with its status, and
        one receipt."""
        costs = self.costs
        each_kb = costs.node_kb + 2 * costs.record_kb + costs.receipt_kb
        worst_kb = costs.session_kb * self.sessions(self.lost)
        secrets_kb = 3 * costs.record_kb * self.secrets
        return (costs.manager_kb + worst_kb + secrets_kb + each_kb * self.nodes) / 1_000

    @property
    def cores(self) -> float:
        """That sessions and their churn take, all managers up."""
        return self.costs.session_ms_each_s * self.sessions() / 1_000

    @property
    def everywhere_s(self) -> float:
        """Of one core, to rotate a secret that is on every node."""
        return self.costs.delivery_ms * self.sessions() / 1_000

    @property
    def return_s(self) -> float:
        """Of one core, until the agents of one manager that died are served by the others."""
        moved = self.sessions(1) - self.sessions()
        return self.costs.first_session_ms * moved / 1_000

    @property
    def renewals_each_s(self) -> float:
        """Of nodes' certificates, in all."""
        return self.nodes / (CERTIFICATE_S * RENEWED_AT)

    @property
    def version_mb(self) -> tuple[float, float]:
        """What one more version of a secret on every node leaves as receipts: in the engine, and in
        each manager's memory."""
        return (
            self.costs.sealed_kb * self.nodes / 1_000,
            self.costs.receipt_kb * self.nodes / 1_000,
        )


def as_table(layouts: Sequence[Layout]) -> str:
    """Return the layouts side by side, as Markdown."""
    head = " | ".join(f"{one.managers} managers" for one in layouts)
    rows = [
        ("agents of each manager", [f"{one.sessions():,}" for one in layouts]),
        (
            "with as many down as may be",
            [f"{one.sessions(one.lost):,} ({one.lost} down)" for one in layouts],
        ),
        ("memory of a manager then", [f"{one.memory_mb:,.0f} MB" for one in layouts]),
        ("its share of a core for sessions and churn", [f"{one.cores:.2f}" for one in layouts]),
        ("a rotation to every node, of a core", [f"{one.everywhere_s:.0f} s" for one in layouts]),
        ("when one manager dies, of a core", [f"{one.return_s:.0f} s" for one in layouts]),
        ("joining all, of a core", [f"{_joining_s(one):.0f} s" for one in layouts]),
        ("renewals of certificates, in all", [f"{one.renewals_each_s:.2f} a second"
                                              for one in layouts]),
        ("one more version on every node: engine, memory", [_version(one) for one in layouts]),
    ]  # fmt: skip
    lines = [f"| {what} | {' | '.join(values)} |" for what, values in rows]
    return "\n".join([f"| what | {head} |", f"|---|{'--:|' * len(layouts)}", *lines])


def _joining_s(layout: Layout) -> float:
    return layout.costs.join_ms * layout.sessions() / 1_000


def _version(layout: Layout) -> str:
    engine, memory = layout.version_mb
    return f"{engine:.0f} MB, {memory:.0f} MB"


def table_of(nodes: int, secrets: int) -> str:
    """Return the table for the numbers of managers that are offered."""
    return as_table([Layout(nodes, managers, secrets) for managers in MANAGERS])


NODES: Final = 10_000
SECRETS: Final = 10_000


def main(arguments: Sequence[str]) -> int:
    """Print the table, or publish the one for 10,000 nodes."""
    parser = argparse.ArgumentParser(prog="python -m tests.scale.layout")
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--secrets", type=int, default=SECRETS)
    parser.add_argument("--publish", action="store_true", help="write docs/reference/limits.md")
    asked = parser.parse_args(arguments)
    if asked.publish:
        PAGE.write_text(replaced(PAGE.read_text(), SECTION, table_of(NODES, SECRETS)))
    sys.stdout.write(table_of(asked.nodes, asked.secrets) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
