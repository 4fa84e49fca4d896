"""One run: found, fill, join, place, churn, judge.

Exit 0: everything held. Exit 1: something did not; the faults, the seed and the replay command are
printed.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from tests.scale.calls import Call, ask_all
from tests.scale.churn import (
    EVERYWHERE,
    Churn,
    everywhere_draft,
    service_draft,
    service_name,
)
from tests.scale.filling import fill, name_of, value_of
from tests.scale.findings import Findings, file_faults, late_faults, memory_faults
from tests.scale.fleet import SimulatedFleet
from tests.scale.options import Options
from tests.scale.processes import anonymous_kb, cpu_s
from tests.scale.report import as_table, save
from tests.scale.sampler import Sampler
from tests.scale.sources import SourceLoop
from tests.support.running import RunningCluster, running_cluster, wait_until

CALLERS: Final = 32
FILLED_DIRECTLY: Final = 2_000
"""From so many secrets on they are written into the store itself, where that can be done."""
JUDGE_AGAIN_S: Final = 5.0
"""Reading thousands of files keeps the agents of this process from their work."""
_PATIENCE_S: Final = 900.0


def run(options: Options) -> int:
    """Run, report, and return the exit code."""
    findings = Findings()
    _tell(options.replay())
    try:
        with running_cluster(engine=options.engine) as cluster:
            _fill(cluster, options, findings)
            with SimulatedFleet.of(cluster, seed=options.seed) as fleet:
                _populate(cluster, fleet, options, findings)
                _churn(cluster, fleet, options, findings)
                _judge_files(cluster, fleet, options, findings)
                findings.faults += fleet.failures[:5]
    except AssertionError as error:
        findings.faults.append(str(error))
    findings.faults += late_faults(findings.rotations, options.behind_s)
    findings.faults += memory_faults(findings.samples, findings.rotations)
    path = save(options, findings, options.output)
    sys.stdout.write(as_table(options, findings))
    _tell(f"written to {path}")
    for fault in findings.faults:
        _tell(f"FAULT: {fault}")
    if findings.faults:
        _tell(f"replay: {options.replay()}")
    return 1 if findings.faults else 0


def _fill(cluster: RunningCluster, options: Options, findings: Findings) -> None:
    """Create the secrets, and start the manager with all of them in its store."""
    (manager,) = cluster.managers
    if options.engine == "sqlite" and options.secrets >= FILLED_DIRECTLY:
        manager.stop()
        started_s = time.monotonic()
        fill(manager, cluster.unlock_key, 0, options.secrets, options.seed)
        findings.phases["fill"] = {"wall": time.monotonic() - started_s}
    else:
        with _phase(cluster, findings, "create the secrets"):
            _ask(
                cluster,
                (
                    Call(
                        "POST",
                        f"/v1/secrets?name={name_of(number)}",
                        value_of(options.seed, name_of(number), 1),
                    )
                    for number in range(options.secrets)
                ),
            )
        manager.stop()
    manager.start()
    with _phase(cluster, findings, "unlock to serving"):
        manager.unlock(cluster.unlock_key)
    _tell(f"{options.secrets} secrets, manager {anonymous_kb(manager.pid) // 1_000} MB")


def _populate(
    cluster: RunningCluster, fleet: SimulatedFleet, options: Options, findings: Findings
) -> None:
    """Join and start the agents, and place the services."""
    with _phase(cluster, findings, "join the agents"):
        fleet.join(options.agents)
    with _phase(cluster, findings, "start the agents"):
        fleet.start(options.agents, _PATIENCE_S)
    drafts = [service_draft(n, options.replicas) for n in range(1, options.services + 1)]
    with _phase(cluster, findings, "create the services"):
        calls = (Call("POST", "/v1/services", json.dumps(d).encode()) for d in drafts)
        last = Call("POST", "/v1/services", json.dumps(everywhere_draft()).encode())
        _ask(cluster, iter([*calls, last]))
    with _phase(cluster, findings, "until every service is in place"):
        wanted = options.services * options.replicas + options.agents
        wait_until(
            lambda: fleet.in_place() == wanted,
            "every task has its files",
            _PATIENCE_S,
        )


def _churn(
    cluster: RunningCluster, fleet: SimulatedFleet, options: Options, findings: Findings
) -> None:
    (manager,) = cluster.managers
    length_s = options.minutes * 60
    sampler = Sampler(manager.pid, manager.join, fleet, min(max(length_s / 180, 1.0), 10.0))
    findings.samples = sampler.samples
    fleet.lags_s = []
    sampler.start()
    try:
        started_s = time.monotonic()
        churn = Churn(cluster, fleet, options, findings)
        churn.run(started_s + length_s, _every(10.0, lambda: time.monotonic() - started_s))
    finally:
        sampler.stop()


def _judge_files(
    cluster: RunningCluster, fleet: SimulatedFleet, options: Options, findings: Findings
) -> None:
    """Compare every file of every agent with what the records want, once all is quiet."""
    names = [EVERYWHERE, *(service_name(n) for n in range(1, options.services + 1))]

    def lacking() -> list[str]:
        wanted = _wanted(cluster, names, options.seed)
        found = {
            (agent, service): fleet.read(agent, service)
            for agent in fleet.names
            for service in fleet.services(agent)
        }
        findings.files_judged = sum(len(files) for files in found.values())
        return file_faults(wanted, found)

    deadline_s = time.monotonic() + max(60.0, options.behind_s)
    while (faults := lacking()) and time.monotonic() < deadline_s:
        time.sleep(JUDGE_AGAIN_S)
    findings.faults += faults


def _wanted(
    cluster: RunningCluster, names: list[str], seed: int
) -> dict[tuple[str, str], dict[str, bytes]]:
    """Return the files that the records want, by agent and service."""
    wanted: dict[tuple[str, str], dict[str, bytes]] = {}
    for service in names:
        for task in cluster.ok("GET", f"/v1/services/{service}/tasks")["tasks"]:
            wanted[task["node"], service] = {
                one["target"]: value_of(seed, one["source"], one["version_desired"])
                for one in task["references"]
            }
    return wanted


def _ask(cluster: RunningCluster, calls: Iterator[Call]) -> None:
    assert cluster.operator is not None
    context = cluster.operator.context()
    with asyncio.Runner(loop_factory=SourceLoop) as runner:
        runner.run(ask_all(cluster.managers[0].api, context, calls, CALLERS))


@contextmanager
def _phase(cluster: RunningCluster, findings: Findings, name: str) -> Iterator[None]:
    """Note what a phase took, of the clock and of both processes."""
    pid = cluster.managers[0].pid
    started_s, manager_s, own_s = time.monotonic(), cpu_s(pid), time.process_time()
    yield
    findings.phases[name] = {
        "wall": time.monotonic() - started_s,
        "manager CPU": cpu_s(pid) - manager_s,
        "simulator CPU": time.process_time() - own_s,
    }
    told = ", ".join(f"{what} {value:.1f} s" for what, value in findings.phases[name].items())
    _tell(f"{name}: {told}")


def _every(period_s: float, passed_s: Callable[[], float]) -> Callable[[str], None]:
    """Return a way to tell progress, now and then."""
    next_s = 0.0

    def tell(text: str) -> None:
        nonlocal next_s
        if passed_s() >= next_s:
            next_s = passed_s() + period_s
            _tell(f"{passed_s():.0f} s: {text}")

    return tell


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
