"""One run: build the cluster, let clients and faults loose on it, let it come to rest, judge."""

import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.checker import (
    Undecided,
    Watched,
    linearizable,
    lost_writes,
    smallest_failing,
    watch_faults,
)
from tests.faults.cluster import FaultCluster, tails, wait_ready
from tests.faults.deliveries import (
    desired_files,
    differences,
    file_faults,
    probe_faults,
    receipts_of,
    replica_faults,
)
from tests.faults.history import Operation
from tests.faults.models import State
from tests.faults.nemesis import FAULTS, Nemesis, set_clocks_right
from tests.faults.observer import Observer, look
from tests.faults.options import Options
from tests.faults.sidecars import PROBE, Sidecars, read_store
from tests.faults.workload import LASTING, SERVICES, Workload, references_of
from tests.support.netns import enter_own_network

PAUSE_S = (0.5, 3.0)
"""Between two faults."""
SETTLE_EVERY_S = 180.0
"""Managers remember request ids for ten minutes: no outcome may stay unknown for longer."""
UNDER_WAY_S = 32.0
"""A manager gives a write up after 30 s: an earlier send is dead by then."""
QUIET_S = 10.0
"""The same at the end, when nobody sends any more and all managers serve."""
SPARE_MANAGERS = 2
SPARE_AGENTS = 2
"""Hosts for those that join during a run."""
CONVERGENCE_S = 120.0
"""How long agents may take to have what the records want, once all faults are healed."""


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
    cluster = FaultCluster.empty(
        options.managers + SPARE_MANAGERS, options.agents + SPARE_AGENTS, [PROBE]
    )
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
    sidecars = Sidecars(cluster, options.seed)
    sidecars.watch()
    sidecars.probe()
    files = [(service, target) for service in SERVICES for target in references_of(service)]
    observer = Observer(cluster.agents, files)
    say(f"built in {time.monotonic() - began:.0f} s; {len(kinds)} kinds of faults")
    nemesis = Nemesis(cluster, random.Random(f"{options.seed}/nemesis"), workload.began)
    verdict = Verdict()
    try:
        observer.start()
        workload.start()
        _strike(options, nemesis, kinds, workload)
        workload.stop()
        set_clocks_right(cluster)
        cluster.all_serve()
        wait_ready(cluster)
        nemesis.rest(QUIET_S)
        workload.settle(0)
        workload.read_all()
        judge_clients(workload, verdict)
        judge_the_rest(workload, observer, sidecars, verdict)
    except AssertionError as error:
        verdict.violations.append(f"it does not come to rest: {error}")
        workload.stop()
        sidecars.stop()
        judge_clients(workload, verdict)
    except BaseException:
        sidecars.stop()
        _save(options, cluster, workload, nemesis)
        raise
    verdict.violations += workload.failures + observer.failures
    verdict.counts = _counts(options, workload, nemesis, cluster) | verdict.counts
    if verdict.violations or options.keep:
        _save(options, cluster, workload, nemesis)
    return verdict


def _strike(options: Options, nemesis: Nemesis, kinds: list[str], workload: Workload) -> None:
    until = time.monotonic() + options.minutes * 60
    settle_at = time.monotonic() + SETTLE_EVERY_S
    left: list[str] = []
    while time.monotonic() < until:
        if time.monotonic() > settle_at:
            set_clocks_right(nemesis.cluster)
            nemesis.cluster.all_serve()
            workload.settle(UNDER_WAY_S)
            settle_at = time.monotonic() + SETTLE_EVERY_S
        nemesis.rest(nemesis.random.uniform(*PAUSE_S))
        if not left:
            left = nemesis.random.sample(kinds, len(kinds))
        nemesis.strike(left.pop())


def judge_clients(workload: Workload, verdict: Verdict) -> None:
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


def judge_the_rest(
    workload: Workload, observer: Observer, sidecars: Sidecars, verdict: Verdict
) -> None:
    """Judge files, records, watches and deliveries, once everything is at rest."""
    cluster = workload.cluster
    workload.learn()
    told, wrong = _converged(workload)
    verdict.violations += [f"not converged: {one}" for one in wrong]
    observer.stop()
    verdict.violations += sidecars.stop()
    stores = {cluster.managers[0].name: told}
    for manager in cluster.fault_managers()[1:]:
        stores[manager.name] = read_store(cluster, manager, told["at"])
    for name, store in stores.items():
        verdict.violations += [f"{name}'s store: {fault}" for fault in store["faults"]]
        status = cluster.manager(name).admin("GET", "/admin/status").body
        if not status.get("ready"):
            verdict.violations.append(f"{name} is not ready: {status.get('reason')}")
    replicas = {name: store["replica"] for name, store in stores.items()}
    verdict.violations += replica_faults(replicas)
    watches = sidecars.watched()
    verdict.violations += watch_faults(watches)
    receipts = receipts_of(told)
    lasting = [(cluster.agents[0].name, LASTING, name) for name in references_of(LASTING)]
    sights = list(observer.sights)
    verdict.violations += file_faults(
        sights, workload.values, receipts, workload.service_names, lasting
    )
    messages = sidecars.probed()
    verdict.violations += _judge_probe(workload, told, watches, messages)
    verdict.counts |= {
        "file_changes_seen": len(sights),
        "probe_deliveries": sum(one["kind"] in {"snapshot", "delta"} for one in messages),
        "probe_sessions": sum(one["kind"] == "hello" for one in messages),
        "watched_revisions": sum(len(watch.batches) for watch in watches),
        "watch_segments": len(watches),
        "audit_links": told["links"],
        "receipts": len(receipts),
        "revision": told["revision"],
    }


def _judge_probe(
    workload: Workload,
    told: dict[str, Any],
    watches: Sequence[Watched],
    messages: Sequence[dict[str, Any]],
) -> list[str]:
    probes = {node_id for node_id, name in told["nodes"].items() if name == PROBE}
    keys = {
        (secret_id, version, service_id): key
        for secret_id, version, node_id, service_id, key, *_ in told["receipts"]
        if node_id in probes
    }
    first: dict[str, int] = {}
    for watch in watches:
        for revision, changes in watch.batches:
            for key, digest in changes:
                if digest:
                    first[key] = min(revision, first.get(key, revision))
    operations = workload.history.operations
    return list(probe_faults(messages, operations, workload.began, keys, first))


def _converged(workload: Workload) -> tuple[dict[str, Any], list[str]]:
    """Wait until the agents' files are what the records want; return these, and what differs."""
    cluster = workload.cluster
    deadline = time.monotonic() + CONVERGENCE_S
    while True:
        told = read_store(cluster, cluster.fault_managers()[0])
        found = {
            (agent.name, service, target): look(agent, service, target)
            for agent in cluster.agents
            for service in SERVICES
            for target in references_of(service)
        }
        wrong = differences(desired_files(told), found, workload.values)
        if not wrong or time.monotonic() > deadline:
            return told, wrong
        time.sleep(1)


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
        "actions": dict(Counter(one.action for one in operations)),
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
    for log in cluster.base.glob("*.jsonl"):
        shutil.copy(log, place / log.name)
    say(f"kept in {place}: history, faults, logs")


def say(text: str) -> None:
    """Print at once."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
