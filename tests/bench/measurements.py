"""What is measured: real processes on loopback, as they ship."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from agent.cli import zipapp
from cluster.protocol.errors import ClusterError
from tests.bench.load import Asked, rates
from tests.bench.rows import Row
from tests.support.command_line import CommandLine
from tests.support.issuing import IssueCaller
from tests.support.node import PYTHON
from tests.support.running import (
    AgentProcess,
    Credential,
    RunningCluster,
    node_id_of,
    running_cluster,
)

UID = 20_001
SERVICE, SECRET = "bench", "credential"
ROUNDS = 3
LISTED = 100


def on_one_manager() -> list[Row]:
    """Measure one manager on SQLite, with one node."""
    with running_cluster(agents=1) as cluster:
        prepare(cluster)
        rows = command_line_starts(cluster)
        return [*rows, *requests(cluster, "sqlite x1"), *rotations(cluster, "sqlite x1")]


def on_three_managers() -> list[Row]:
    """Measure three managers on etcd, with one node."""
    with running_cluster(managers=3, engine="etcd", agents=1) as cluster:
        prepare(cluster)
        rows = [*requests(cluster, "etcd x3"), *rotations(cluster, "etcd x3")]
        return [*rows, leader_losses(cluster)]


def prepare(cluster: RunningCluster) -> None:
    """Place a service with one secret on the node."""
    cluster.create_secret(SECRET, b"first")
    cluster.create_service(SERVICE, UID, SECRET)


# --- requests -----------------------------------------------------------------------------------


def requests(cluster: RunningCluster, where: str) -> list[Row]:
    """Measure creating and issuing, by callers that keep their connections."""
    operator = cluster.operator
    assert operator is not None
    endpoints = [manager.api for manager in cluster.managers]
    node = Credential.of_node(cluster.agents[0].data_dir)
    asked = json.dumps(IssueCaller(node_id_of(node)).body(SERVICE, SECRET)).encode()
    one = rates(endpoints, operator, 1, creations("one", 100))
    many = rates(endpoints, operator, 64, creations("many", 1_000))
    issued = rates(endpoints, node, 32, iter([[("POST", "/v1/issue", asked)] * 1_500] * ROUNDS))
    return [
        Row.of(f"create, 1 caller ({where})", "1/s", one),
        Row.of(f"create, 64 callers ({where})", "1/s", many),
        Row.of(f"issue, 32 callers ({where})", "1/s", issued),
    ]


def creations(prefix: str, count: int) -> Iterator[list[Asked]]:
    """Yield rounds of requests that each create a secret."""
    for number in range(ROUNDS):
        yield [
            ("POST", f"/v1/secrets?name={prefix}-{number}-{i}", os.urandom(32))
            for i in range(count)
        ]


# --- rotation to file ---------------------------------------------------------------------------


def rotations(cluster: RunningCluster, where: str, count: int = 40) -> list[Row]:
    """Measure from the start of the API call to the new bytes in the service's file."""
    (agent,) = cluster.agents
    taken = []
    for number in range(count):
        taken.append(_rotation(cluster, agent, f"rotated-{number}".encode()))
        time.sleep(0.02)  # the agent's ack is not part of the next one
    return [
        Row.of(f"rotate to file, p50 ({where})", "ms", taken),
        Row.of(f"rotate to file, p99 ({where})", "ms", taken, share=0.99),
    ]


def _rotation(cluster: RunningCluster, agent: AgentProcess, value: bytes) -> float:
    """Return milliseconds."""
    call = threading.Thread(
        target=cluster.call, args=("POST", f"/v1/secrets/{SECRET}/versions", value)
    )
    started = time.perf_counter()
    call.start()
    while agent.read(SERVICE, SECRET) != value:
        if time.perf_counter() - started > 30:  # long after anybody would wait
            raise AssertionError("the rotated value did not arrive")
        time.sleep(0.000_2)
    taken = time.perf_counter() - started
    call.join()
    return taken * 1_000


# --- commands -----------------------------------------------------------------------------------


def command_line_starts(cluster: RunningCluster) -> list[Row]:
    """Measure commands from nothing to their answer."""
    for number in range(LISTED - 1):
        cluster.create_secret(f"listed-{number}", b"value")
    shell = CommandLine(cluster.base / "operator")
    added = cluster.ok("POST", "/v1/operators", {"name": "bench", "role": "auditor"})
    join = cluster.managers[0].join
    shell.ok("operator", "enrol", "--manager", join, stdin=str(added["token"]).encode())
    listed = _times(lambda: _listed(shell), 7)
    archive = cluster.base / "strongroom-agent.pyz"
    zipapp.build(archive)
    archive.chmod(0o644)
    socket = cluster.agents[0].run_dir / "workload" / SERVICE / "workload.sock"
    got = _times(lambda: _got(archive, socket), 7)
    return [
        Row.of(f"strongroom secret ls, {LISTED} secrets", "ms", listed),
        Row.of("strongroom-agent get", "ms", got),
    ]


def _listed(shell: CommandLine) -> None:
    assert len(shell.ok("secret", "ls", "-q").splitlines()) == LISTED


def _got(archive: Path, socket: Path) -> None:
    done = subprocess.run(
        [PYTHON, "-I", str(archive), "get", SECRET, "--socket", str(socket)],
        user=UID, group=UID, extra_groups=(), cwd="/", capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout == b"first"


def _times(run: Callable[[], None], count: int) -> Sequence[float]:
    """Return milliseconds, the first run left out: it reads the disk."""
    run()
    taken = []
    for _ in range(count):
        started = time.perf_counter()
        run()
        taken.append((time.perf_counter() - started) * 1_000)
    return taken


# --- leader loss --------------------------------------------------------------------------------


def leader_losses(cluster: RunningCluster) -> Row:
    """Measure from kill -9 of the leading manager to the first write the others acknowledge."""
    taken = []
    for number in range(ROUNDS):
        leader = cluster.leader()
        others = [manager for manager in cluster.managers if manager is not leader]
        started = time.perf_counter()
        leader.kill()
        while not _written(cluster, f"after-{number}", others[number % 2].api):
            time.sleep(0.01)
        taken.append(time.perf_counter() - started)
        leader.start()
        leader.unlock(cluster.unlock_key)
    return Row.of("kill -9 of the leader to first write (etcd x3)", "s", taken)


def _written(cluster: RunningCluster, name: str, endpoint: str) -> bool:
    """Create a secret at one manager; it waits inside while the engine elects."""
    (manager,) = (one for one in cluster.managers if one.api == endpoint)
    try:
        answer = cluster.call("POST", f"/v1/secrets?name={name}", b"value", managers=[manager])
    except (ClusterError, OSError):
        return False
    return answer.status == 201 or answer.body.get("code") == "already_exists"
