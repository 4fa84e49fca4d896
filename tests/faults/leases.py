"""Faults at the manager that holds the duties: it loses its lease, or is killed in the middle of a
rollout. And nodes that lose the lease of their files."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from cluster.duties import DUTY_TTL_S
from cluster.protocol.errors import ClusterError
from tests.faults.cluster import FaultManager
from tests.faults.workload import LEASE_S, LEASED, references_of
from tests.support.frozen import freeze_process
from tests.support.netns import CUT
from tests.support.running import Process

if TYPE_CHECKING:
    from tests.faults.nemesis import Nemesis

CONTROL_S: Final = 30.0
BEYOND_S: Final = (1.2 * DUTY_TTL_S, 2.5 * DUTY_TTL_S)
"""Longer than the duties' lease."""
BETWEEN_S: Final = (0.3, 4.0)
RELEASE_S: Final = 20.0
"""How long a rollout may take to release its next tasks."""
POLL_S: Final = 0.03
STOPPED: Final = 0.5
"""The share of nodes that sleep while their lease ends."""
WIPED_S: Final = 60.0
"""How long a wipe may take once the lease is over: much longer than it does."""


@contextlib.contextmanager
def lease_lost(nemesis: "Nemesis") -> Iterator[str]:
    """The holder of the duties loses its lease while it goes on working: it is revoked again and
    again, or the holder is stopped, or cut off from the other managers, for longer than it."""
    how = nemesis.random.choice([_revoked, _revoked, _stopped, _alone])
    with how(nemesis) as told:
        yield told


@contextlib.contextmanager
def _revoked(nemesis: "Nemesis") -> Iterator[str]:
    """The lease ends in the engine; its holder learns of it at its next renewal."""
    holders = []
    for _ in range(nemesis.random.randrange(2, 6)):
        holder = _holder(nemesis, "revoke")
        holders.append(holder.name if holder is not None else "nobody")
        nemesis.rest(nemesis.random.uniform(*BETWEEN_S))
    yield f"revoked from {' '.join(holders)}"


@contextlib.contextmanager
def _stopped(nemesis: "Nemesis") -> Iterator[str]:
    """The holder's process is stopped; its engine goes on, and takes over what it wakes with."""
    holder = _holder(nemesis) or nemesis.managers(1)[0]
    pid = holder.pid
    with contextlib.suppress(ProcessLookupError):
        freeze_process(pid)
    try:
        nemesis.rest(nemesis.random.uniform(*BEYOND_S))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    yield f"{holder.name} was stopped"


@contextlib.contextmanager
def _alone(nemesis: "Nemesis") -> Iterator[str]:
    """The holder keeps its clients and agents, and loses the other managers."""
    holder = _holder(nemesis) or nemesis.managers(1)[0]
    others = [one.name for one in nemesis.cluster.managers if one is not holder]
    pairs = [pair for name in others for pair in ((holder.name, name), (name, holder.name))]
    nemesis.cluster.network.set_links(dict.fromkeys(pairs, CUT))
    try:
        nemesis.rest(nemesis.random.uniform(*BEYOND_S))
    finally:
        nemesis.cluster.network.set_links({})
    yield f"{holder.name} was alone"


@contextlib.contextmanager
def kill_at_rollout(nemesis: "Nemesis") -> Iterator[str]:
    """Kill -9 of the holder of the duties in the moment in which a rollout releases tasks."""
    struck = _holder(nemesis) or nemesis.managers(1)[0]
    asked = [one for one in nemesis.cluster.fault_managers() if one is not struck]
    before = _released(nemesis, asked)
    until = time.monotonic() + RELEASE_S
    moved = False
    while struck.running and not moved and time.monotonic() < until:
        now = _released(nemesis, asked)
        moved = before is not None and now is not None and bool(now - before)
        before = now if now is not None else before
        time.sleep(POLL_S)
    struck.wanted = False
    struck.kill()
    yield f"{struck.name}, {'as tasks were released' if moved else 'nothing was released'}"
    Process.start(struck)
    struck.wanted = True


@contextlib.contextmanager
def node_lease_lost(nemesis: "Nemesis") -> Iterator[str]:
    """A node reaches no manager for longer than the lease of a file, which it wipes; it may have
    been stopped meanwhile, and wipes as it wakes. Other files stay: other judges see to that."""
    agent = nemesis.random.choice(nemesis.cluster.agents)
    had = agent.read(LEASED, *references_of(LEASED)) is not None
    managers = [one.name for one in nemesis.cluster.managers]
    pairs = [pair for name in managers for pair in ((agent.name, name), (name, agent.name))]
    nemesis.cluster.network.set_links(dict.fromkeys(pairs, CUT))
    sleeps = nemesis.random.random() < STOPPED
    try:
        if sleeps:
            agent.pause()
        nemesis.rest(LEASE_S)
        if sleeps:
            agent.resume()
        until = time.monotonic() + WIPED_S
        while agent.read(LEASED, *references_of(LEASED)) is not None:
            assert time.monotonic() < until, f"{agent.name} keeps a file whose lease is lost"
            nemesis.rest(POLL_S)
    finally:
        if sleeps:
            agent.resume()
        nemesis.cluster.network.set_links({})
    yield f"{agent.name}{' stopped' if sleeps else ''}, {'wiped' if had else 'had nothing'}"


def _released(nemesis: "Nemesis", asked: list[FaultManager]) -> set[tuple[str, str, str]] | None:
    """Return what rollouts under way have released by now: rollout, service and node each; None
    without an answer."""
    with contextlib.suppress(ClusterError, OSError, ValueError, KeyError):
        listed = nemesis.cluster.call("GET", "/v1/rollouts", managers=asked).body["rollouts"]
        found: set[tuple[str, str, str]] = set()
        for one in [rollout for rollout in listed if not rollout["finished_at"]]:
            shown = nemesis.cluster.call("GET", f"/v1/rollouts/{one['id']}", managers=asked).body
            released = [target for target in shown["targets"] if target["released"]]
            found |= {(one["id"], target["service"], target["node"]) for target in released}
        return found
    return None


def _holder(nemesis: "Nemesis", what: str = "holder") -> FaultManager | None:
    """Return the manager that holds the duties, asked through any engine that answers."""
    for asked in nemesis.managers(len(nemesis.cluster.managers)):
        told = _control(asked, what)
        if told is not None:
            return _named(nemesis, told)
    return None


def engine_answers(manager: FaultManager) -> bool:
    """Return whether a manager's engine answers a read that needs a quorum."""
    return _control(manager, "holder") is not None


def _control(manager: FaultManager, what: str) -> str | None:
    """Return what a manager's engine says; None if it does not answer."""
    argv = [sys.executable, "-m", "tests.faults.engine_control", str(manager.engine_socket), what]
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(argv, capture_output=True, check=False, timeout=CONTROL_S)
        if done.returncode == 0:
            return done.stdout.decode()
    return None


def _named(nemesis: "Nemesis", manager_id: str) -> FaultManager | None:
    with contextlib.suppress(ClusterError, OSError, ValueError, KeyError):
        listed = nemesis.cluster.call("GET", "/v1/managers").body["managers"]
        names = {one["id"]: one["name"] for one in listed}
        return nemesis.cluster.manager(names[manager_id])
    return None
