"""Faults in the middle of a join: of an agent, and of a manager."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from cluster.protocol.errors import ClusterError
from tests.faults.cluster import FaultAgent, FaultManager
from tests.faults.workload import BOTH, EVERYWHERE
from tests.support.etcd_cluster import need_etcd
from tests.support.running import SCRIPTS, Process

if TYPE_CHECKING:
    from tests.faults.nemesis import Nemesis

PATIENCE_S: Final = 300.0
FILES_S: Final = 20.0
"""How long a node may wait for its first files before it is evicted without any."""


@contextlib.contextmanager
def join_agent(nemesis: "Nemesis") -> Iterator[str]:
    """A node joins while a manager is killed; its join is repeated until it succeeds."""
    cluster = nemesis.cluster
    name = nemesis.spare("n")
    if name is None:
        yield "nobody left"
        return
    agent = FaultAgent(name, cluster.base / name, cluster.env, cluster.network)
    token = cluster.ok("POST", "/v1/tokens", {"role": "worker"})["token"]
    argv = [str(SCRIPTS / "strongroom-agent"), "join", "--name", name]
    argv += ["--data-dir", str(agent.data_dir)]
    for manager in cluster.managers:
        argv += ["--manager", manager.join]
    struck = nemesis.managers(1)[0]
    deadline = time.monotonic() + PATIENCE_S
    for attempt in range(1000):
        joining = subprocess.Popen(
            agent.host.command(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=agent.env,
        )
        if attempt == 0:
            threading.Timer(nemesis.random.uniform(0.1, 0.6), _kill, [struck]).start()
        _, said = joining.communicate(token.encode())
        if joining.returncode == 0:
            break
        assert time.monotonic() < deadline, f"{name} cannot join: {said.decode()}"
        nemesis.rest(0.5)
    cluster.agents.append(agent)
    agent.start()
    yield f"{name}, {struck.name} killed, {attempt + 1} attempts"


@contextlib.contextmanager
def join_manager(nemesis: "Nemesis") -> Iterator[str]:
    """A manager joins; it or another one is killed on the way, and the join is repeated."""
    cluster = nemesis.cluster
    name = nemesis.spare("m")
    if name is None:
        yield "nobody left"
        return
    token = cluster.ok("POST", "/v1/tokens", {"role": "manager"})["token"]
    newcomer = FaultManager(name, cluster.base / name, cluster.env, need_etcd(), cluster.network)
    newcomer.argv += cluster.manager_flags
    newcomer.wanted = False
    newcomer.start()
    struck = nemesis.random.choice([newcomer, *cluster.fault_managers()])
    body = {
        "unlock_key": cluster.unlock_key,
        "token": token,
        "managers": [one.join for one in cluster.managers],
    }
    threading.Timer(nemesis.random.uniform(0.1, 3.0), _kill, [struck]).start()
    deadline = time.monotonic() + PATIENCE_S
    attempts = 0
    said: object = None
    while newcomer_state(newcomer) != "serving":
        attempts += 1
        assert time.monotonic() < deadline, f"{name} cannot join: {said}\n{newcomer.text()[-3000:]}"
        if not newcomer.running:
            Process.start(newcomer)
        # As an operator does who finds it so: it may have joined before it was killed.
        cluster.unlock(newcomer)
        if newcomer_state(newcomer) == "serving":
            break
        with contextlib.suppress(ClusterError, OSError, ValueError):
            said = newcomer.admin_steps("/admin/join", body)[-1]
        nemesis.rest(0.5)
    cluster.managers.append(newcomer)
    newcomer.wanted = True
    yield f"{name}, {struck.name} killed, {attempts} attempts"


@contextlib.contextmanager
def evict_agent(nemesis: "Nemesis") -> Iterator[str]:
    """A node joins, is given files, and is evicted with all that it held, while a manager is
    killed."""
    cluster = nemesis.cluster
    name = nemesis.spare("n")
    if name is None:
        yield "nobody left"
        return
    agent = FaultAgent(name, cluster.base / name, cluster.env, cluster.network)
    cluster.evicted.append(agent)
    token = cluster.ok("POST", "/v1/tokens", {"role": "worker"})["token"]
    agent.join(token, [manager.join for manager in cluster.managers])
    agent.start()
    deadline = time.monotonic() + FILES_S
    while agent.read(EVERYWHERE, BOTH) is None and time.monotonic() < deadline:
        nemesis.rest(0.2)
    struck = nemesis.managers(1)[0]
    threading.Timer(nemesis.random.uniform(0.0, 0.5), _kill, [struck]).start()
    cluster.ok("POST", f"/v1/nodes/{name}/evict", {"rotate": True})
    yield f"{name}, {struck.name} killed"


def newcomer_state(manager: FaultManager) -> str:
    """Return where a manager stands; empty while it does not answer."""
    with contextlib.suppress(ClusterError, OSError, ValueError):
        return str(manager.admin("GET", "/admin/status").body.get("state", ""))
    return ""


def _kill(manager: FaultManager) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(manager.pid, signal.SIGKILL)
