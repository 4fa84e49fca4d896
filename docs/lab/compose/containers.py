"""The lab's containers as the processes that the steps of the lab speak of.

Owns finding, starting and killing them by the name of their service. Every pid is this machine's:
the main process of a container is found by its cgroup and by being process 1 inside.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from docs.lab.layout import Layout
from docs.lab.processes import Process, Processes, identity_of
from docs.lab.shell import LabError

SERVICES = (
    *("m1", "m2", "m3", "bootstrap", "operator", "node1", "node2"),
    *("red", "blue", "twitter", "third-party"),
)
PROJECT = "strongroom"
ENGINE_TIMEOUT_S = 300.0
BUILD_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class _MainProcess:
    """What the steps use of a `Popen`."""

    pid: int


@dataclass(slots=True)
class Container(Process):
    """A container's main process."""

    engine: "Engine"
    """Whom to ask about it."""

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return bool(self.engine.inspect(self.name)["State"]["Running"])

    def last_lines(self, count: int = 8) -> list[str]:
        """Return the end of its log."""
        return self.engine.logs(self.name, count).splitlines()


class Engine:
    """The container engine, through its command line."""

    def __init__(self, environment: Mapping[str, str], cwd: Path) -> None:
        self._environment = dict(environment)
        self._cwd = cwd

    def run(
        self,
        *words: str,
        stdin: bytes = b"",
        check: bool = True,
        timeout_s: float = ENGINE_TIMEOUT_S,
    ) -> str:
        """Return what a command prints; raise LabError if it fails and `check`."""
        done = subprocess.run(
            words,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            cwd=self._cwd,
            timeout=timeout_s,
            check=False,
        )
        said = done.stdout.decode(errors="replace")
        if check and done.returncode:
            raise LabError(f"`{' '.join(words[:3])}` failed with {done.returncode}: {said.strip()}")
        return said

    def build(self, *services: str) -> None:
        """Make the images of some services."""
        self.run("docker-compose", "build", "--quiet", *services, timeout_s=BUILD_TIMEOUT_S)

    def container(self, service: str) -> str:
        """Return the id of a service's container, running or not; raise LabError without one."""
        found = self.run("docker", "ps", "--all", "--quiet", "--no-trunc", *_of(service)).split()
        if len(found) != 1:
            raise LabError(f"there are {len(found)} containers of {service}; one is needed")
        return found[0]

    def inspect(self, service: str) -> dict[str, Any]:
        """Return all that the engine knows of a service's container."""
        (found,) = json.loads(self.run("docker", "inspect", self.container(service)))
        return cast("dict[str, Any]", found)

    def logs(self, service: str, count: int | None = None) -> str:
        """Return what a container printed, or the end of it."""
        tail = "all" if count is None else str(count)
        return self.run("docker", "logs", "--tail", tail, self.container(service))

    def pid(self, service: str) -> int:
        """Return the pid of a container's main process on this machine, or 0 if there is none."""
        container = self.container(service)
        for status in Path("/proc").glob("[0-9]*/status"):
            # A process may end while it is looked at.
            with suppress(OSError):
                if container in (status.parent / "cgroup").read_text() and _is_first(status):
                    return int(status.parent.name)
        return 0


class Containers(Processes):
    """All containers of the lab, by service."""

    def __init__(self, layout: Layout, environment: Mapping[str, str], engine: Engine) -> None:
        super().__init__(layout, environment)
        self.engine = engine

    def __getitem__(self, name: str) -> Process:
        pid = self.engine.pid(name)
        popen = cast("subprocess.Popen[bytes]", _MainProcess(pid))
        return Container(name, popen, Path("/dev/null"), identity_of(pid), self.engine)

    def __contains__(self, name: str) -> bool:
        return self.engine.pid(name) != 0

    def start(self, name: str, command: Sequence[str]) -> Process:  # noqa: ARG002  # the file says how
        """Start a container that does not run."""
        if name not in self:
            self.engine.run("docker", "start", self.engine.container(name))
        return self[name]

    def identities(self) -> dict[str, str]:
        """Return pid and start time of everything that runs."""
        pids = {name: self.engine.pid(name) for name in SERVICES}
        return {name: f"{pid} {identity_of(pid)}" for name, pid in pids.items() if pid}

    def kill(self, name: str) -> None:
        """End a container as a power cut would: with SIGKILL."""
        self.engine.run("docker", "kill", self.engine.container(name))

    def stop_all(self) -> None:
        """Take everything away, volumes too."""
        self.engine.run("docker-compose", "down", "--volumes", "--timeout", "5")


def _of(service: str) -> tuple[str, ...]:
    labels = (f"project={PROJECT}", f"service={service}")
    return tuple(f"--filter=label=com.docker.compose.{label}" for label in labels)


def _is_first(status: Path) -> bool:
    """Return whether a process is number 1 in its innermost pid namespace."""
    for line in status.read_text().splitlines():
        if line.startswith("NSpid:"):
            return line.split()[-1] == "1"
    return False
