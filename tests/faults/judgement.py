"""What a run comes to: every judge on everything that was seen, once the cluster is at rest."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.faults.certificates import CertificateObserver
from tests.faults.certificates import look as look_at_certificate
from tests.faults.checker import (
    Undecided,
    Watched,
    linearizable,
    lost_writes,
    smallest_failing,
    watch_faults,
)
from tests.faults.deliveries import (
    desired_files,
    differences,
    file_faults,
    probe_faults,
    receipts_of,
    replica_faults,
    waiting_faults,
)
from tests.faults.duties import duty_faults, of_records, terms
from tests.faults.entitlements import Event, Timeline, primary_of
from tests.faults.history import History, Operation
from tests.faults.models import State
from tests.faults.observer import Observer, Sight, look
from tests.faults.promises import exposure_faults, manifest_faults, record_faults
from tests.faults.rotations import GATED, GATED_SERVICE, HOOKED, HOOKED_SERVICE, Rotations
from tests.faults.sidecars import PROBE, Sidecars, read_store
from tests.faults.third_party import calls, party_faults
from tests.faults.workload import LASTING, SERVICES, Workload, references_of, targets_of

CONVERGENCE_S: Final = 300.0
"""How long agents may take to have what the records want, once all faults are healed."""
FILES: Final = (
    *((service, target) for service in SERVICES for target in targets_of(service)),
    (GATED_SERVICE, GATED),
)
"""What observers look at: service and target."""


@dataclass(slots=True)
class Verdict:
    """What a run found."""

    violations: list[str] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """All that looked on during a run."""

    workload: Workload
    rotations: Rotations
    observer: Observer
    certificates: CertificateObserver
    sidecars: Sidecars


def client_violations(history: History) -> Iterator[str]:
    """Yield what clients saw that one copy of each key could not have shown them. Pure."""
    for key, operations in history.by_key().items():
        initial: State = (0, "", "") if key.startswith(("node:", "availability:")) else None
        try:
            if linearizable(operations, initial):
                continue
        except Undecided:
            yield f"{key}: the search took too long; nothing is proven"
            continue
        smallest = smallest_failing(operations, initial)
        yield (
            f"{key} is not linearizable; the smallest history that shows it ends so:\n"
            + "\n".join(map(str, sorted(smallest, key=_end)[-25:]))
        )
        for lost in lost_writes(operations):
            yield f"{key}: acknowledged and lost: {lost}"


def judge_the_rest(seen: Seen, verdict: Verdict) -> None:
    """Judge files, records, watches and deliveries, once everything is at rest."""
    workload, sidecars = seen.workload, seen.sidecars
    cluster = workload.cluster
    workload.learn()
    told, wrong = _converged(workload)
    verdict.violations += [f"not converged: {one}" for one in wrong]
    verdict.violations += seen.rotations.faults_at_rest(told)
    verdict.violations += _certificates_at_rest(seen, told)
    seen.observer.stop()
    seen.certificates.stop()
    verdict.violations += sidecars.stop()
    _judge_stores(workload, told, verdict)
    watches = sidecars.watched()
    verdict.violations += watch_faults(watches)
    every = sidecars.chronicle()
    verdict.violations += duty_faults(every, told["managers"])
    events = of_records(every)
    timeline = Timeline.of(events)
    whole = bool(events) and events[-1][0] >= told["revision"]
    receipts = receipts_of(told)
    lasting = [(cluster.agents[0].name, LASTING, name) for name in references_of(LASTING)]
    sights = list(seen.observer.sights)
    names = workload.service_names
    wanted = _wanted(timeline, whole=whole)
    verdict.violations += file_faults(sights, workload.values, receipts, names, lasting, wanted)
    messages = sidecars.probed()
    verdict.violations += _judge_probe(workload, told, watches, messages)
    verdict.violations += _judge_records(seen, events, timeline, told, messages)
    verdict.violations += _where_faults(workload, sights)
    verdict.counts |= {
        "file_changes_seen": len(sights),
        "probe_deliveries": sum(one["kind"] in {"snapshot", "delta"} for one in messages),
        "probe_sessions": sum(one["kind"] == "hello" for one in messages),
        "watched_revisions": sum(len(watch.batches) for watch in watches),
        "watch_segments": len(watches),
        "audit_links": told["links"],
        "receipts": len(receipts),
        "revision": told["revision"],
        "revisions_judged": events[-1][0] if events else 0,
        "duty_terms": terms(every),
        **_told_of_rotations(seen, events),
    }


def _wanted(
    timeline: Timeline, *, whole: bool
) -> Callable[[str, str, str], Sequence[tuple[str, int]]] | None:
    """Return what files were to hold; None where the watches missed a part of it."""
    return timeline.versions if whole else None


def _judge_stores(workload: Workload, told: dict[str, Any], verdict: Verdict) -> None:
    cluster = workload.cluster
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


def _judge_records(
    seen: Seen,
    events: Sequence[Event],
    timeline: Timeline,
    told: dict[str, Any],
    messages: Sequence[dict[str, Any]],
) -> Iterator[str]:
    refused = seen.rotations.refused_versions()
    yield from record_faults(events, timeline, refused)
    last = events[-1][0] if events else 0
    for node_id, name in timeline.node_names.items():
        if name == PROBE:
            yield from manifest_faults(messages, node_id, timeline, last)
    receipts = [(secret, version, node) for secret, version, node, *_ in told["receipts"]]
    yield from exposure_faults(told, receipts)
    party = calls(seen.workload.cluster.base)
    yield from party_faults(party, seen.rotations.issued, _pushed(events))
    yield from seen.certificates.faults


def _pushed(events: Sequence[Event]) -> Iterator[tuple[int, float]]:
    """Yield each version that the hook's secret was rotated to, and when it was seen first."""
    known = {1}
    for _, moment, changes in events:
        for kind, _, body in changes:
            if kind == "secret" and body is not None and body["name"] == HOOKED:
                number = primary_of(body)
                if number is not None and number not in known:
                    known.add(number)
                    yield number, moment


def _where_faults(workload: Workload, sights: Sequence[Sight]) -> Iterator[str]:
    """Yield which files were seen of which operators are not told by `secret where`."""
    rows: dict[str, set[tuple[int, str, str]] | None] = {}
    for sight in sights:
        secret, version = workload.values.get(sight.mark, ("", None))
        if version is None:
            continue
        if secret not in rows:
            rows[secret] = _told_where(workload, secret)
        known = rows[secret]
        if known is not None and (version, sight.agent, sight.service) not in known:
            yield f"`secret where {secret}` leaves version {version} on {sight.agent} out"


def _told_where(workload: Workload, secret: str) -> set[tuple[int, str, str]] | None:
    """Return version, node and service of every row; None if there are too many."""
    told = workload.cluster.ok("GET", f"/v1/secrets/{secret}/where")
    if told["left_out"]:
        return None
    return {(one["version"], one["node"], one["service"]) for one in told["receipts"]}


def _certificates_at_rest(seen: Seen, told: dict[str, Any]) -> Iterator[str]:
    """Yield where a certificate is not valid; what a wrong clock issued is renewed by then."""
    places = {node for service, node, *_ in told["files"] if service == HOOKED_SERVICE}
    until = time.monotonic() + CONVERGENCE_S
    for agent in seen.workload.cluster.agents:
        while agent.name in places:
            found = look_at_certificate(agent.mount(HOOKED_SERVICE))
            if found is not None and found.is_current():
                break
            if time.monotonic() > until:
                yield f"{agent.name} has no valid certificate of {HOOKED_SERVICE}"
                break
            time.sleep(1)


def _told_of_rotations(seen: Seen, events: Sequence[Event]) -> dict[str, Any]:
    rollouts: dict[str, str] = {}
    for _, _, changes in events:
        for kind, record_id, body in changes:
            if kind == "rollout" and body is not None and body["policy"] is not None:
                rollouts[record_id] = body["state"]
    ends = list(rollouts.values())
    return {
        "gated_rollouts": {state: ends.count(state) for state in sorted(set(ends))},
        "hook_calls": len(calls(seen.workload.cluster.base)),
        "hooked_versions": len(list(_pushed(events))),
        "hooked_issues": len(seen.rotations.issued),
        "certificates_seen": sum(map(len, seen.certificates.seen.values())),
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
    # The store tells it of what a watch missed, the watches of what was written anew since.
    first = {key: int(entry.split("/")[0]) for key, entry in told["replica"].items()}
    for watch in watches:
        for revision, changes in watch.batches:
            for key, digest in changes:
                if digest:
                    first[key] = min(revision, first.get(key, revision))
    operations = workload.history.operations
    return list(probe_faults(messages, operations, workload.began, keys, first))


def _converged(workload: Workload) -> tuple[dict[str, Any], list[str]]:
    """Wait until the agents' files are what the records want, and the records know what they have;
    return these, and what differs."""
    cluster = workload.cluster
    deadline = time.monotonic() + CONVERGENCE_S
    while True:
        told = read_store(cluster, cluster.fault_managers()[0])
        found = {
            (agent.name, service, target): look(agent, service, target)
            for agent in (*cluster.agents, *cluster.evicted)
            for service, target in FILES
        }
        wrong = differences(desired_files(told), found, workload.values)
        wrong += waiting_faults(told)
        if not wrong or time.monotonic() > deadline:
            return told, wrong
        time.sleep(1)


def _end(operation: Operation) -> float:
    return operation.end
