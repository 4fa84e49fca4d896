"""The cluster under test: managers and agents as they ship, each on a host and, for managers, a
disk of its own, each with a clock that can be set.

A keeper thread does what systemd and an operator do: a manager that ended by itself is started
again, and a locked one is unlocked.
"""

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from agent import linux
from cluster.protocol.errors import ClusterError
from tests.faults.disks import LoopDisk
from tests.support.netns import Network
from tests.support.running import (
    SCRIPTS,
    AgentProcess,
    ManagerProcess,
    Process,
    RunningCluster,
    wait_until,
)

PREFIX: Final = "srf-"
ROOT: Final = Path(tempfile.gettempdir())
TOOLS: Final = Path(__file__).resolve().parents[2] / ".tools"
FAKETIME: Final = TOOLS / "faketime/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
LOOK_S: Final = 0.25
SERVING_S: Final = 300.0
"""How long managers may take to serve once all faults are healed."""
RESTART_S: Final = 1.0
"""Between two starts of a manager that ends by itself, as a service manager would have it."""
PORTS: Final = (7443, 7444, 7445)


def clock_environment(clock: Path) -> dict[str, str]:
    """Return what makes a process read its calendar time with the offset in `clock`."""
    clock.write_text("+0")
    return {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def _ends_with_us(argv: Sequence[str]) -> list[str]:
    return ["setpriv", "--pdeathsig", "KILL", *argv]


class FaultManager(ManagerProcess):
    """A manager on a host and a disk of its own."""

    def __init__(
        self, name: str, base: Path, env: Mapping[str, str], etcd: Path | None, network: Network
    ) -> None:
        Process.__init__(self, name, [], base / "manager.log", {**env})
        self.base = base
        self.api_port, self.join_port, self.peer_port = PORTS
        self.address = network.address(name)
        base.mkdir(parents=True)
        self.disk = LoopDisk(base / "disk.img", base / "disk")
        self.disk.create()
        self.clock = base / "clock"
        self.env |= clock_environment(self.clock)
        self.wanted = True
        """Whether the keeper may start and unlock it."""
        self.busy = threading.Lock()
        argv = [
            str(SCRIPTS / "strongroom"), "manager", "run",
            "--name", name, "--advertise", self.address,
            "--data-dir", str(base / "disk" / "data"), "--run-dir", str(base / "run"),
            "--api-listen", self.api, "--join-listen", self.join,
            "--peer-listen", f"{self.address}:{self.peer_port}",
            *(["--etcd", str(etcd)] if etcd else []),
        ]  # fmt: skip
        self.argv = _ends_with_us(network.hosts[name].command(argv))

    @property
    def api(self) -> str:
        """host:port of the listener that requires a certificate."""
        return f"{self.address}:{self.api_port}"

    @property
    def join(self) -> str:
        """host:port of the join listener."""
        return f"{self.address}:{self.join_port}"

    @property
    def engine_socket(self) -> Path:
        """The engine's client socket, which root of the machine may use."""
        return self.base / "run" / "engine" / f"{self.name}.sock:0"

    def children(self) -> list[int]:
        """Return the pids of what it started: the engine's member."""
        found = Path(f"/proc/{self.pid}/task").glob("*/children")
        with contextlib.suppress(OSError):
            return [int(pid) for one in found for pid in one.read_text().split()]
        return []


class FaultAgent(AgentProcess):
    """An agent on a host of its own."""

    def __init__(self, name: str, base: Path, env: Mapping[str, str], network: Network) -> None:
        super().__init__(name, base, env)
        self.clock = base / "clock"
        self.env |= clock_environment(self.clock)
        self.host = network.hosts[name]
        self.argv = _ends_with_us(self.host.command(self.argv))


@dataclass(slots=True)
class FaultCluster(RunningCluster):
    """A cluster on the hosts of a network, with a keeper."""

    network: Network = field(default_factory=Network)
    evicted: list[FaultAgent] = field(default_factory=list)
    """Agents whose nodes were evicted; they run on."""
    restarts: list[str] = field(default_factory=list)
    """Managers that ended by themselves."""
    _not_before: dict[str, float] = field(default_factory=dict)
    _done: threading.Event = field(default_factory=threading.Event)
    _keeper: threading.Thread | None = None

    @classmethod
    def empty(cls, managers: int, agents: int, others: Sequence[str] = ()) -> Self:
        """Return a cluster with hosts for so many managers and agents, and `others`; nothing runs
        yet."""
        clean_up()
        base = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        base.chmod(0o711)
        names = [f"m{n}" for n in range(1, managers + 1)] + [f"n{n}" for n in range(1, agents + 1)]
        return cls(base, "etcd", dict(os.environ), network=Network.of([*names, *others]))

    def add_manager(self) -> ManagerProcess:
        """Start one more manager, empty, on a host of its own."""
        from tests.support.etcd_cluster import need_etcd

        name = f"m{len(self.managers) + 1}"
        manager = FaultManager(name, self.base / name, self.env, need_etcd(), self.network)
        manager.argv += self.manager_flags
        self.managers.append(manager)
        manager.start()
        return manager

    def add_agent(self, labels: Mapping[str, str] | None = None) -> AgentProcess:
        """Join and start one more agent on a host of its own."""
        name = f"n{len(self.agents) + 1}"
        agent = FaultAgent(name, self.base / name, self.env, self.network)
        token = self.ok("POST", "/v1/tokens", {"role": "worker"})["token"]
        agent.join(token, [manager.join for manager in self.managers])
        self.agents.append(agent)
        agent.start()
        if labels:
            self.ok("PATCH", f"/v1/nodes/{name}", {"add_labels": dict(labels)})
        return agent

    def manager(self, name: str) -> FaultManager:
        """Return a manager by name. Raises KeyError."""
        return {one.name: one for one in self.fault_managers()}[name]

    def fault_managers(self) -> list[FaultManager]:
        """Return the managers by their own type."""
        return [one for one in self.managers if isinstance(one, FaultManager)]

    def fault_agents(self) -> list[FaultAgent]:
        """Return the agents by their own type."""
        return [one for one in self.agents if isinstance(one, FaultAgent)]

    # --- keeping ---

    def keep(self) -> None:
        """Start unlocking whatever is locked, and noticing what ended by itself."""
        self._keeper = threading.Thread(target=self._run_keeper, name="keeper", daemon=True)
        self._keeper.start()

    def restart_ended(self) -> None:
        """Start managers that ended by themselves; for the main thread, which children end with."""
        now = time.monotonic()
        for manager in self.fault_managers():
            if manager.wanted and manager.child is not None and not manager.running:
                if now < self._not_before.get(manager.name, 0):
                    continue
                self._not_before[manager.name] = now + RESTART_S
                if manager.child.returncode != -signal.SIGKILL:
                    self.restarts.append(f"{manager.name} ended with {manager.child.returncode}")
                Process.start(manager)

    def _run_keeper(self) -> None:
        unlocking: dict[str, threading.Thread] = {}
        while not self._done.wait(LOOK_S):
            for manager in self.fault_managers():
                thread = unlocking.get(manager.name)
                if manager.wanted and manager.running and (thread is None or not thread.is_alive()):
                    thread = threading.Thread(target=self.unlock, args=(manager,), daemon=True)
                    unlocking[manager.name] = thread
                    thread.start()

    def unlock(self, manager: FaultManager) -> None:
        """Unlock a manager if it is locked, and lets itself be."""
        with contextlib.suppress(ClusterError, OSError, ValueError, AssertionError, IndexError):
            if manager.admin("GET", "/admin/status").body.get("state") == "locked":
                manager.admin_steps("/admin/unlock", {"unlock_key": self.unlock_key})

    def all_serve(self) -> None:
        """Wait until every manager serves."""
        deadline = time.monotonic() + SERVING_S
        for manager in self.fault_managers():
            while not self._serves(manager):
                self.restart_ended()
                assert time.monotonic() < deadline, (
                    f"{manager.name} serves\n{manager.text()[-3000:]}"
                )
                time.sleep(LOOK_S)

    def _serves(self, manager: FaultManager) -> bool:
        with contextlib.suppress(ClusterError, OSError, ValueError):
            status = manager.admin("GET", "/admin/status").body if manager.running else {}
            return status.get("state") == "serving"
        return False

    def stop_keeping(self) -> None:
        """End the keeper."""
        self._done.set()
        if self._keeper is not None:
            self._keeper.join(5)

    def close(self) -> None:
        """End everything and take every mount, device and file away."""
        self.stop_keeping()
        for process in (*self.agents, *self.evicted, *self.managers):
            process.kill()
        self.network.close()
        _remove(self.base)


def wait_ready(cluster: FaultCluster) -> None:
    """Wait until every agent is ready."""
    for agent in cluster.agents:
        wait_until(
            lambda name=agent.name: cluster.node(name)["state"] == "ready",  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            f"{agent.name} is ready",
        )


def clean_up() -> None:
    """Remove what runs that are dead left behind: their processes died with them."""
    for base in ROOT.glob(f"{PREFIX}*"):
        pid = base.name.removeprefix(PREFIX).split("-")[0]
        if pid.isdigit() and not _is_runner(int(pid)):
            _remove(base)


def _is_runner(pid: int) -> bool:
    try:
        return b"tests.faults" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _remove(base: Path) -> None:
    for entry in reversed(linux.mount_table()):
        if Path(entry.mount_point).is_relative_to(base):
            with contextlib.suppress(OSError):
                linux.unmount(entry.mount_point, linux.MNT_DETACH)
    shutil.rmtree(base, ignore_errors=True)


def tails(cluster: FaultCluster, size: int = 2500) -> dict[str, Any]:
    """Return the end of every log."""
    processes = (*cluster.managers, *cluster.agents, *cluster.evicted)
    return {one.name: one.text()[-size:] for one in processes}
