"""One run: build the cluster, let clients and faults loose on it, let it come to rest, judge."""

import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.faults.checker import Undecided, linearizable, lost_writes, smallest_failing
from tests.faults.cluster import FaultCluster, tails, wait_ready
from tests.faults.history import Operation
from tests.faults.models import State
from tests.faults.nemesis import FAULTS, Nemesis
from tests.faults.options import Options
from tests.faults.workload import Workload
from tests.support.netns import enter_own_network

PAUSE_S = (0.5, 3.0)
"""Between two faults."""


@dataclass(slots=True)
class Verdict:
    """What a run found."""

    violations: list[str] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)


def run(options: Options) -> int:
    """Carry a run out and print its verdict; return the exit code."""
    enter_own_network()
    kinds = [kind for kind in FAULTS if not options.only or kind.startswith(options.only)]
    say(f"seed {options.seed}: {options.replay()}")
    cluster = FaultCluster.empty(options.managers, options.agents)
    try:
        verdict = _run(options, cluster, kinds)
    finally:
        cluster.close()
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "latest.json").write_text(json.dumps(verdict.counts, indent=2) + "\n")
    say(json.dumps(verdict.counts, indent=2))
    for violation in verdict.violations:
        say(f"\nVIOLATION {violation}")
    if verdict.violations:
        say(f"\nseed {options.seed}; again: {options.replay()}")
    return 1 if verdict.violations else 0


def _run(options: Options, cluster: FaultCluster, kinds: list[str]) -> Verdict:
    began = time.monotonic()
    cluster.found(options.managers)
    for _ in range(options.agents):
        cluster.add_agent()
    wait_ready(cluster)
    cluster.keep()
    workload = Workload(cluster, options.seed, options.clients)
    workload.prepare()
    say(f"built in {time.monotonic() - began:.0f} s; {len(kinds)} kinds of faults")
    nemesis = Nemesis(cluster, random.Random(f"{options.seed}/nemesis"), workload.began)
    verdict = Verdict()
    try:
        workload.start()
        _strike(options, nemesis, kinds)
        workload.stop()
        cluster.all_serve()
        wait_ready(cluster)
        workload.read_all()
        judge(workload, verdict)
    except BaseException:
        _save(options, cluster, workload, nemesis)
        raise
    verdict.violations += workload.failures
    verdict.counts = _counts(options, workload, nemesis, cluster)
    if verdict.violations or options.keep:
        _save(options, cluster, workload, nemesis)
    return verdict


def _strike(options: Options, nemesis: Nemesis, kinds: list[str]) -> None:
    until = time.monotonic() + options.minutes * 60
    left: list[str] = []
    while time.monotonic() < until:
        nemesis.rest(nemesis.random.uniform(*PAUSE_S))
        if not left:
            left = nemesis.random.sample(kinds, len(kinds))
        nemesis.strike(left.pop())


def judge(workload: Workload, verdict: Verdict) -> None:
    """Judge what clients saw."""
    for key, operations in workload.history.by_key().items():
        initial: State = (0, "", "") if key.startswith(("node:", "availability:")) else None
        try:
            if linearizable(operations, initial):
                continue
        except Undecided:
            verdict.violations.append(f"{key}: the search took too long; nothing is proven")
            continue
        smallest = smallest_failing(operations, initial)
        verdict.violations.append(
            f"{key} is not linearizable; the smallest history that shows it ends so:\n"
            + "\n".join(map(str, sorted(smallest, key=_end)[-25:]))
        )
        for lost in lost_writes(operations):
            verdict.violations.append(f"{key}: acknowledged and lost: {lost}")


def _end(operation: Operation) -> float:
    return operation.end


def _counts(
    options: Options, workload: Workload, nemesis: Nemesis, cluster: FaultCluster
) -> dict[str, Any]:
    operations = workload.history.operations
    return {
        "command": options.replay(),
        "seed": options.seed,
        "managers": options.managers,
        "agents": options.agents,
        "faults": dict(sorted(nemesis.done.items())),
        "operations": len(operations),
        "outcomes": dict(Counter(one.outcome for one in operations)),
        "actions": dict(Counter(f"{one.action}" for one in operations)),
        "resent": sum(one.sends > 1 for one in operations),
        "managers_ended_by_themselves": len(cluster.restarts),
    }


def _save(options: Options, cluster: FaultCluster, workload: Workload, nemesis: Nemesis) -> None:
    place = options.output / f"seed-{options.seed}"
    place.mkdir(parents=True, exist_ok=True)
    workload.history.save(place / "history.jsonl")
    (place / "faults.log").write_text("\n".join([*nemesis.log, *cluster.restarts]) + "\n")
    for name, text in tails(cluster, 400_000).items():
        (place / f"{name}.log").write_text(text)
    say(f"kept in {place}: history, faults, logs")


def say(text: str) -> None:
    """Print at once."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
