"""What a run found, and the judgement of it. Pure: figures in, faults out."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

FLAT: Final = 1.05
FLAT_KB: Final = 8_192
"""What memory may grow by from the middle third to the last: a share, and in kB."""
RECEIPT_KB: Final = 2
"""What a manager keeps for each receipt: it is on record for as long as its version is, so this
much growth for each delivery is what was asked for, and no leak."""
LONG_ENOUGH_S: Final = 240.0
"""Shorter runs are still filling caches: their memory is shown and not judged."""
_NAMED: Final = 5

Files = Mapping[tuple[str, str], Mapping[str, bytes]]
"""(agent, service) -> target -> content."""


@dataclass(frozen=True, slots=True)
class Rotated:
    """One rotation, with how long each running agent that it concerned took, in seconds."""

    at_s: float
    secret: str
    version: int
    agents: int
    written_s: float
    """Until the last of them had the new bytes."""
    acked_s: float
    """Until the last of them had acknowledged."""
    manager_cpu_s: float
    """What the manager's process took meanwhile, for whatever it did."""
    behind_s: float
    """The longest that one of them lacked what the records wanted there: a rollout in groups holds
    the others at the version before."""


@dataclass(frozen=True, slots=True)
class Returned:
    """Agents that came back, with how long the slowest took to be in session."""

    at_s: float
    agents: int
    synced_s: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What the processes took at one moment."""

    at_s: float
    manager_kb: int
    simulator_kb: int
    """RssAnon."""
    manager_fds: int
    simulator_fds: int
    manager_cpu_s: float
    simulator_cpu_s: float
    simulator_lag_s: float
    """The longest that the fleet's event loop was late since the sample before."""
    manager_answer_s: float
    """The longest that the manager took to answer `/healthz` since the sample before."""
    load: float


@dataclass(slots=True)
class Findings:
    """All that a run measured."""

    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of the time before the churn: wall and CPU seconds."""
    rotations: list[Rotated] = field(default_factory=list)
    returns: list[Returned] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    changes: dict[str, int] = field(default_factory=dict)
    """Kind of churn -> how often."""
    faults: list[str] = field(default_factory=list)
    files_judged: int = 0


def memory_faults(samples: Sequence[Sample], rotations: Sequence[Rotated]) -> list[str]:
    """Return what memory is not flat: the last third against the middle third, less receipts."""
    if len(samples) < 9 or samples[-1].at_s - samples[0].at_s < LONG_ENOUGH_S:
        return []
    return [
        f"the {what}'s memory grew from {middle:.0f} to {last:.0f} kB"
        for what, sizes in (
            ("manager", [without_receipts_kb(sample, rotations) for sample in samples]),
            ("simulator", [sample.simulator_kb for sample in samples]),
        )
        for middle, last in (_thirds(sizes),)
        if last > max(middle * FLAT, middle + FLAT_KB)
    ]


def without_receipts_kb(sample: Sample, rotations: Sequence[Rotated]) -> int:
    """Return a manager's memory less the receipts that the rotations before left in it."""
    receipts = sum(rotated.agents for rotated in rotations if rotated.at_s < sample.at_s)
    return sample.manager_kb - receipts * RECEIPT_KB


def _thirds(sizes: Sequence[int]) -> tuple[float, float]:
    third = len(sizes) // 3
    return statistics.median(sizes[third : 2 * third]), statistics.median(sizes[2 * third :])


def late_faults(rotations: Sequence[Rotated], behind_s: float) -> list[str]:
    """Return the rotations that left a running agent behind for too long."""
    late = [one for one in rotations if one.behind_s > behind_s]
    return _named(
        f"{one.secret} {one.version}: one of {one.agents} agents was behind for "
        f"{one.behind_s:.2f} s"
        for one in late
    )


def behind_s(
    acked_s: Mapping[str, float], released_s: Mapping[str, float | None], asked_s: float
) -> float:
    """Return the longest that an agent was behind. All are moments of one calendar.

    `acked_s`: when each agent had acknowledged; `released_s`: when a rollout released the change to
    its node; `asked_s`: when it was asked for. The first group counts from there, and so does every
    agent of a rollout without groups: a manager that is slow to begin is behind.
    """
    first_s = min((moment for moment in released_s.values() if moment is not None), default=asked_s)
    later_s = {agent: moment for agent, moment in released_s.items() if moment and moment > first_s}
    return max(
        (acked - max(asked_s, later_s.get(agent, asked_s)) for agent, acked in acked_s.items()),
        default=0.0,
    )


def file_faults(wanted: Files, found: Files) -> list[str]:
    """Return where agents' files are not what the records want. Values are not told."""
    faults = []
    for place in sorted(wanted.keys() | found.keys()):
        agent, service = place
        want, have = wanted.get(place, {}), found.get(place, {})
        faults += [f"{agent} lacks {t} of {service}" for t in sorted(want.keys() - have.keys())]
        faults += [f"{agent} keeps {t} of {service}" for t in sorted(have.keys() - want.keys())]
        shared = sorted(want.keys() & have.keys())
        faults += [f"{agent} has other bytes in {t} of {service}" for t in shared
                   if want[t] != have[t]]  # fmt: skip
    return _named(faults)


def _named(faults: Iterable[str]) -> list[str]:
    """Return the first faults, and how many more there are."""
    found = list(faults)
    more = len(found) - _NAMED
    return [*found[:_NAMED], f"and {more} more like it"] if more > 0 else found
