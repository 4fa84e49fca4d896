"""Where the rows are measured: a cluster of real processes as they ship, and how much is asked."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.load import Asked, Target, numbered
from tests.support.processes import children_of
from tests.support.running import AgentProcess, Credential, RunningCluster, running_cluster

UID: Final = 20_001
SERVICE: Final = "bench"
SECRET: Final = "credential"
VALUE_BYTES: Final = 1_024
PLACED_NOWHERE: Final = "node.labels.bench == nowhere"
"""A constraint that no node meets."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is asked of a row."""

    rounds: int
    """Repeats of a rate; each round is one sample."""
    creates: int
    """Requests a round with 64 callers; a tenth with one."""
    issues: int
    deliveries: int
    elections: int
    starts: int
    """Runs of a command."""
    agents: int
    """Of the fleet."""
    growth_secrets: tuple[int, ...]
    growth_services: tuple[int, ...]
    growth_agents: tuple[int, ...]


QUICK: Final = Size(3, 1_000, 2_000, 30, 3, 7, 200, (100, 2_000), (1, 100), (1, 200))
FULL: Final = Size(
    5, 5_000, 10_000, 300, 9, 15, 1_000,
    (100, 1_000, 10_000, 100_000), (1, 100, 1_000), (1, 100, 1_000, 5_000),
)  # fmt: skip


@dataclass(slots=True)
class Stage:
    """A cluster with one agent that has one service with one secret."""

    cluster: RunningCluster
    size: Size

    @property
    def agent(self) -> AgentProcess:
        """The agent."""
        return self.cluster.agents[0]

    @property
    def operator(self) -> Credential:
        """The admin's certificate."""
        assert self.cluster.operator is not None
        return self.cluster.operator

    @property
    def endpoints(self) -> list[str]:
        """Every manager's API."""
        return [manager.api for manager in self.cluster.managers]

    def target(self) -> Target:
        """Return all managers, called as the admin."""
        return Target.with_credential(self.endpoints, self.operator)

    def in_file(self) -> bytes | None:
        """Return what the service reads."""
        return self.agent.read(SERVICE, SECRET)

    def used_s(self) -> float:
        """Return the processor time that managers and engines took so far."""
        managers = [manager.pid for manager in self.cluster.managers]
        engines = [child for pid in managers for child in children_of(pid)]
        return sum(map(processor_s, [*managers, *engines]))


@contextlib.contextmanager
def stage(size: Size, managers: int = 3, engine: str = "etcd") -> Iterator[Stage]:
    """Give a cluster whose service is in place."""
    with running_cluster(managers=managers, engine=engine, agents=1) as cluster:
        cluster.create_secret(SECRET, os.urandom(VALUE_BYTES))
        cluster.create_service(SERVICE, UID, SECRET)
        yield Stage(cluster, size)


def end_in_order() -> None:
    """Let a polite signal end this process as an error does: what it started is ended first."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _: sys.exit(128 + got))


def creation(prefix: str) -> Asked:
    """Return the request that creates a secret of 1 KB."""
    return Asked("POST", numbered(f"/v1/secrets?name={prefix}-"), os.urandom(VALUE_BYTES))


def status_kib(pid: int, field: str) -> int:
    """Return a line of /proc/PID/status that counts KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise AssertionError(f"the kernel does not tell {field}")


def processor_s(pid: int) -> float:
    """Return the processor time a process took so far, its threads included."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
