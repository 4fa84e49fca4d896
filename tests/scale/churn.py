"""What happens to a cluster during a run: rotations, updates, agents that leave and return, drains.

All draws come from the seed. Values follow from seed, name and version, so that every file can be
judged by whoever knows the records.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from tests.scale.filling import name_of, value_of
from tests.scale.findings import Findings, Returned, Rotated, behind_s
from tests.scale.fleet import Latency, SimulatedFleet
from tests.scale.options import Options
from tests.scale.processes import cpu_s
from tests.support.running import RunningCluster, wait_until

EVERYWHERE: Final = "everywhere"
EVERYWHERE_UID: Final = 19_999
GROUP: Final = 100
"""Nodes that the service on every node is updated on at once, as an operator would have it."""
FIRST_UID: Final = 20_000
AWAY_S: Final = 4.0
"""Shorter than a manager waits before it calls a node down."""
_PATIENCE_S: Final = 300.0


def service_name(number: int) -> str:
    """Return the name of a run's service."""
    return f"service-{number:04}"


def service_draft(number: int, replicas: int, extra: str = "") -> dict[str, Any]:
    """Return a service that refers to the secret of its number, and to `extra`."""
    sources = [name_of(number), *([extra] if extra else [])]
    return {
        "name": service_name(number),
        "uid": FIRST_UID + number,
        "gid": FIRST_UID + number,
        "replicas": replicas,
        "references": [{"source": source} for source in sources],
    }


class Churn:
    """Makes one change after another, and notes how each went."""

    def __init__(
        self, cluster: RunningCluster, fleet: SimulatedFleet, options: Options, findings: Findings
    ) -> None:
        self._cluster = cluster
        self._fleet = fleet
        self._options = options
        self._findings = findings
        self._draw = random.Random(options.seed)
        self._counts: Counter[str] = Counter()
        self._drained: str | None = None
        self._started_s = time.monotonic()
        self._versions: Counter[str] = Counter()

    def run(self, until_s: float, tell: Callable[[str], None]) -> None:
        """Make changes until a moment of CLOCK_MONOTONIC; put back what was taken away."""
        actions = (
            [self._rotate] * 12 + [self._update] * 3 + [self._leave] * 2
            + [self._drain] * 2 + [self._rotate_everywhere]
        )  # fmt: skip
        while time.monotonic() < until_s:
            action = self._draw.choice(actions)
            action()
            self._counts[action.__name__.strip("_")] += 1
            self._findings.changes = dict(self._counts)
            tell(self._progress())
        self._undrain()

    def _progress(self) -> str:
        last = self._findings.rotations[-1] if self._findings.rotations else None
        told = f", last rotation {last.acked_s * 1_000:.0f} ms" if last else ""
        return f"{sum(self._counts.values())} changes{told}"

    # --- changes --------------------------------------------------------------------------------

    def _rotate(self) -> None:
        # The first secret is everywhere; those of services come after it.
        self._rotate_secret(name_of(1 + self._draw.randrange(self._options.services)))

    def _rotate_everywhere(self) -> None:
        self._rotate_secret(name_of(0))

    def _rotate_secret(self, secret: str) -> None:
        self._versions[secret] += 1
        value = value_of(self._options.seed, secret, 1 + self._versions[secret])
        manager = self._cluster.managers[0].pid
        calendar_s = time.time() - time.monotonic()
        cpu_before_s, started_s = cpu_s(manager), time.monotonic()
        answer = self._cluster.ok("POST", f"/v1/secrets/{secret}/versions", value)
        version = int(answer["version"])
        assert version == 1 + self._versions[secret], "a version that this run did not make"
        taken = self._fleet.wait_applied(secret, version, started_s, _PATIENCE_S)
        self._findings.rotations.append(
            Rotated(
                at_s=started_s - self._started_s,
                secret=secret,
                version=version,
                agents=len(taken),
                written_s=max((one.written_s for one in taken.values()), default=0.0),
                acked_s=max((one.acked_s for one in taken.values()), default=0.0),
                manager_cpu_s=cpu_s(manager) - cpu_before_s,
                behind_s=self._longest_behind_s(
                    answer.get("rollout"), taken, started_s + calendar_s
                ),
            )
        )

    def _longest_behind_s(
        self, rollout: str | None, taken: Mapping[str, Latency], started_s: float
    ) -> float:
        """Return how long an agent lacked at most what the records wanted there.

        `started_s`: when the rotation was asked for, on the calendar.
        """
        shown = self._cluster.ok("GET", f"/v1/rollouts/{rollout}")["targets"] if rollout else []
        released_s = {one["node"]: _unix_s(one["released_at"]) for one in shown}
        return behind_s(
            {agent: started_s + one.acked_s for agent, one in taken.items()}, released_s, started_s
        )

    def _update(self) -> None:
        """Give a service one more secret, or take it away again."""
        number = 1 + self._draw.randrange(self._options.services)
        extra = name_of(self._options.services + 1) if self._draw.random() < 0.5 else ""
        draft = service_draft(number, self._options.replicas, extra)
        self._cluster.ok("PUT", f"/v1/services/{service_name(number)}", {"spec": draft})

    def _leave(self) -> None:
        """Let some agents go away, rotate, and let them return."""
        names = [name for name in self._fleet.running if name != self._drained]
        away = self._draw.sample(names, min(max(len(names) // 20, 1), 50, len(names) - 1))
        self._fleet.leave(away)
        left_s = time.monotonic()
        while time.monotonic() - left_s < AWAY_S:
            self._rotate()
        started_s = time.monotonic()
        self._fleet.return_(away, _PATIENCE_S)
        taken_s = time.monotonic() - started_s
        self._findings.returns.append(Returned(started_s - self._started_s, len(away), taken_s))

    def _drain(self) -> None:
        """Drain a node, and let the one before have tasks again."""
        self._undrain()
        self._drained = self._draw.choice(self._fleet.running)
        self._availability(self._drained, "drain")
        drained = self._drained
        wait_until(lambda: not self._fleet.services(drained), f"{drained} is empty", _PATIENCE_S)

    def _undrain(self) -> None:
        if self._drained is not None:
            self._availability(self._drained, "active")
            self._drained = None

    def _availability(self, node: str, wanted: str) -> None:
        self._cluster.ok("PATCH", f"/v1/nodes/{node}", {"availability": wanted})


def everywhere_draft() -> dict[str, Any]:
    """Return the service that is on every node; a change of it goes out in groups."""
    return {
        "name": EVERYWHERE,
        "uid": EVERYWHERE_UID,
        "gid": EVERYWHERE_UID,
        "global": True,
        "references": [{"source": name_of(0)}],
        "update": {"parallelism": GROUP, "monitor_s": 0, "on_failure": "continue"},
    }


def _unix_s(moment: str | None) -> float | None:
    return None if moment is None else datetime.fromisoformat(moment).timestamp()
