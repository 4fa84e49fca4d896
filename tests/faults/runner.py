"""One run: build the cluster, let clients and faults loose on it, let it come to rest, judge."""

import json
import random
import shutil
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from tests.faults.certificates import CertificateObserver
from tests.faults.cluster import FaultCluster, tails, wait_ready
from tests.faults.disks import enter_own_mounts
from tests.faults.judgement import FILES, Seen, Verdict, client_violations, judge_the_rest
from tests.faults.nemesis import FAULTS, Nemesis, set_clocks_right
from tests.faults.observer import Observer
from tests.faults.options import Options
from tests.faults.rotations import HOOKED_SERVICE, Rotations
from tests.faults.sidecars import PROBE, Sidecars
from tests.faults.third_party import set_up
from tests.faults.workload import Workload
from tests.support.netns import enter_own_network

PAUSE_S = (0.5, 3.0)
"""Between two faults."""
SETTLE_EVERY_S = 180.0
"""Managers remember request ids for ten minutes: no outcome may stay unknown for longer."""
UNDER_WAY_S = 32.0
"""A manager gives a write up after 30 s: an earlier send is dead by then."""
QUIET_S = 10.0
"""At the end, when nobody sends any more and all managers serve."""
LEAST_FAULTS = 6
"""However slow the machine is, a run that injected fewer says little: it goes on until then."""
SPARE_MANAGERS = 2
SPARE_AGENTS = 3
"""Hosts for those that join during a run."""
SERVICE_TTL_S = 60.0
"""Certificates of services are renewed several times in a run."""


def run(options: Options) -> int:
    """Carry a run out and print its verdict; return the exit code."""
    enter_own_network()
    enter_own_mounts()
    kinds = [kind for kind in FAULTS if not options.only or kind.startswith(options.only)]
    if not kinds:
        say(f"no fault begins with {' or '.join(options.only)}; there are {' '.join(FAULTS)}")
        return 2
    began = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    say(f"seed {options.seed}: {options.replay()}")
    cluster = FaultCluster.empty(
        options.managers + SPARE_MANAGERS, options.agents + SPARE_AGENTS, [PROBE]
    )
    try:
        verdict = _run(options, cluster, kinds)
    finally:
        cluster.close()
    verdict.counts |= {"began": began, "violations": len(verdict.violations)}
    kept = options.output / "runs" / f"{began}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    for summary in (kept, options.output / "latest.json"):
        summary.write_text(json.dumps(verdict.counts, indent=2) + "\n")
    say(json.dumps(verdict.counts, indent=2))
    for violation in verdict.violations:
        say(f"\nVIOLATION {violation}")
    if verdict.violations:
        say(f"\nseed {options.seed}; again: {options.replay()}")
    return 1 if verdict.violations else 0


def _run(options: Options, cluster: FaultCluster, kinds: list[str]) -> Verdict:
    began = time.monotonic()
    cluster.manager_flags = ("--hook-directory", str(set_up(cluster.base)))
    cluster.found(options.managers, service_ttl_s=SERVICE_TTL_S)
    for _ in range(options.agents):
        cluster.add_agent()
    wait_ready(cluster)
    cluster.keep()
    workload = Workload(cluster, options.seed, options.clients)
    workload.prepare()
    rotations = Rotations(workload)
    rotations.prepare()
    sidecars = Sidecars(cluster, options.seed)
    sidecars.watch()
    sidecars.probe()
    certificates = CertificateObserver(cluster.agents, HOOKED_SERVICE, cluster.agents[0].name)
    seen = Seen(workload, rotations, Observer(cluster.agents, FILES), certificates, sidecars)
    say(f"built in {time.monotonic() - began:.0f} s; {len(kinds)} kinds of faults")
    nemesis = Nemesis(cluster, random.Random(f"{options.seed}/nemesis"), workload.began)
    verdict = Verdict()
    try:
        seen.observer.start()
        certificates.start()
        workload.start()
        rotations.start()
        _strike(options, nemesis, kinds, workload)
        rotations.stop()
        workload.stop()
        _rest(nemesis, seen, verdict)
        verdict.violations += client_violations(workload.history)
        judge_the_rest(seen, verdict)
    except AssertionError as error:
        verdict.violations.append(f"it does not come to rest: {error}")
        rotations.stop()
        workload.stop()
        sidecars.stop()
        workload.leave_unsettled()
        verdict.violations += client_violations(workload.history)
    except BaseException:
        sidecars.stop()
        _save(options, cluster, workload, nemesis)
        raise
    verdict.violations += workload.failures + seen.observer.failures + rotations.failures
    verdict.counts = _counts(options, workload, nemesis, cluster) | verdict.counts
    if verdict.violations or options.keep:
        _save(options, cluster, workload, nemesis)
    return verdict


def _rest(nemesis: Nemesis, seen: Seen, verdict: Verdict) -> None:
    """Heal everything, and wait until nothing is under way any more."""
    set_clocks_right(nemesis.cluster)
    nemesis.cluster.all_serve()
    wait_ready(nemesis.cluster)
    nemesis.rest(QUIET_S)
    while seen.workload.quiet_s() < UNDER_WAY_S:
        nemesis.rest(1)
    seen.workload.settle(0)
    verdict.violations += seen.rotations.come_to_rest()
    seen.workload.read_all()


def _strike(options: Options, nemesis: Nemesis, kinds: list[str], workload: Workload) -> None:
    until = time.monotonic() + options.minutes * 60
    settle_at = time.monotonic() + SETTLE_EVERY_S
    left: list[str] = []
    while time.monotonic() < until or nemesis.done.total() < LEAST_FAULTS:
        if time.monotonic() > settle_at:
            set_clocks_right(nemesis.cluster)
            nemesis.cluster.all_serve()
            workload.settle(UNDER_WAY_S)
            settle_at = time.monotonic() + SETTLE_EVERY_S
        nemesis.rest(nemesis.random.uniform(*PAUSE_S))
        if not left:
            left = nemesis.random.sample(kinds, len(kinds))
        nemesis.strike(left.pop(), overlap=options.overlap)


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
        "actions": dict(Counter(one.action for one in operations)),
        "overlapping_faults": nemesis.overlaps,
        "resent": sum(one.sends > 1 for one in operations),
        "managers_ended_by_themselves": len(cluster.restarts),
    }


def _save(options: Options, cluster: FaultCluster, workload: Workload, nemesis: Nemesis) -> None:
    place = options.output / f"seed-{options.seed}"
    place.mkdir(parents=True, exist_ok=True)
    workload.history.save(place / "history.jsonl")
    (place / "faults.log").write_text("\n".join([*nemesis.log, *cluster.restarts]) + "\n")
    for name, text in tails(cluster, 4_000_000).items():
        (place / f"{name}.log").write_text(text)
    for log in (*cluster.base.glob("*.jsonl"), cluster.base / "party" / "log"):
        if log.exists():
            shutil.copy(log, place / log.name)
    say(f"kept in {place}: history, faults, logs")


def say(text: str) -> None:
    """Print at once."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
