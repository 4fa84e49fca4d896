"""The faults: each is injected, lasts a while and is healed, one after another, drawn by the seed.

Runs in the main thread, which the processes it starts end with. A fault never changes what must
hold; it may only cost time.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final

from cluster.protocol.errors import ClusterError
from tests.faults.cluster import FaultCluster, FaultManager
from tests.faults.joins import evict_agent, join_agent, join_manager
from tests.faults.leases import kill_at_rollout, lease_lost, node_lease_lost
from tests.faults.log_disk import disk_gone, log_eio
from tests.support.frozen import freeze_process
from tests.support.netns import CUT, Link
from tests.support.running import Process

OWN: Final = "own"
SHORT_S: Final = (0.5, 6.0)
LONG_S: Final = (11.0, 18.0)
"""Longer than an engine's client insists: outcomes stay unknown and have to be settled."""
LONG: Final = 0.2
"""The share of faults that last long."""
SPACE_S: Final = 300.0
"""How long freeing space in a full engine may take."""
FREE_AGAIN_S: Final = 5.0
Fault = Callable[["Nemesis"], AbstractContextManager[str]]


@dataclass(slots=True)
class Nemesis:
    """Injects faults into a cluster."""

    cluster: FaultCluster
    random: random.Random
    began: float
    done: Counter[str] = field(default_factory=Counter)
    log: list[str] = field(default_factory=list)
    overlaps: int = 0
    """How often two faults struck at once."""

    def strike(self, kind: str, *, overlap: float = 0.0) -> None:
        """Inject one fault, let it last, and heal it; with a share of `overlap`, one of another
        sort strikes while it lasts."""
        second = self.second(kind) if self.random.random() < overlap else None
        with contextlib.ExitStack() as both:
            self.note(f"{kind} {both.enter_context(FAULTS[kind](self))}")
            if second is not None:
                self.note(f"with {second} {both.enter_context(FAULTS[second](self))}")
            self.rest(self.random.uniform(*(LONG_S if self.random.random() < LONG else SHORT_S)))
        self.done[kind] += 1
        if second is not None:
            self.done[second] += 1
            self.overlaps += 1
        self.note(f"{kind} healed")

    def second(self, kind: str) -> str | None:
        """Return a fault that breaks what `kind` leaves alone, and that heals by itself."""
        if kind in ALONE:
            return None
        broken = next((sort for sort in SORTS if kind in sort), ())
        return self.random.choice([one for sort in SORTS if sort is not broken for one in sort])

    def note(self, text: str) -> None:
        """Remember what was done, and when."""
        self.log.append(f"{time.monotonic() - self.began:7.2f} {text}")

    def rest(self, seconds: float) -> None:
        """Wait, and start again what ended by itself."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.cluster.restart_ended()
            time.sleep(min(0.2, max(0.0, until - time.monotonic())))

    def managers(self, count: int) -> list[FaultManager]:
        """Return so many managers, drawn at random."""
        return self.random.sample(self.cluster.fault_managers(), count)

    def spare(self, kind: str) -> str | None:
        """Return a host that nobody uses yet, of a manager ("m") or an agent ("n")."""
        cluster = self.cluster
        used = {one.name for one in (*cluster.managers, *cluster.agents, *cluster.evicted)}
        free = [name for name in self.cluster.network.hosts if name[1:].isdigit()]
        return next((name for name in free if name[0] == kind and name not in used), None)

    @property
    def minority(self) -> int:
        """How many managers may be lost."""
        return (len(self.cluster.managers) - 1) // 2

    def leader(self) -> FaultManager:
        """Return the manager whose engine leads, or any if nobody tells."""
        for manager in self.cluster.fault_managers():
            with contextlib.suppress(ClusterError, OSError, ValueError, KeyError):
                answer = self.cluster.call("GET", "/v1/status", managers=[manager])
                return self.cluster.manager(answer.body["leader"])
        return self.managers(1)[0]


# --- processes ---


def _kill(managers: Callable[[Nemesis], Sequence[FaultManager]]) -> Fault:
    @contextlib.contextmanager
    def fault(nemesis: Nemesis) -> Iterator[str]:
        struck = managers(nemesis)
        for manager in struck:
            manager.wanted = False
        for manager in struck:
            os.kill(manager.pid, signal.SIGKILL) if manager.running else None
        for manager in struck:
            manager.kill()
        yield _names(struck)
        for manager in struck:
            _start(manager)

    return fault


def _start(manager: FaultManager) -> None:
    Process.start(manager)
    manager.wanted = True


@contextlib.contextmanager
def _kill_engine(nemesis: Nemesis) -> Iterator[str]:
    """Kill -9 of the engine's member only; its manager starts it again."""
    struck = nemesis.managers(1)[0]
    for pid in struck.children() if struck.running else []:
        os.kill(pid, signal.SIGKILL)
    yield struck.name


def _pause(
    managers: Callable[[Nemesis], Sequence[FaultManager]], *, manager: bool, engine: bool
) -> Fault:
    @contextlib.contextmanager
    def fault(nemesis: Nemesis) -> Iterator[str]:
        struck = managers(nemesis)
        pids: list[int] = []
        for one in struck:
            if one.running:
                pids += [one.pid] * manager + one.children() * engine
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                freeze_process(pid)
        try:
            yield _names(struck)
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    return fault


@contextlib.contextmanager
def _kill_agent(nemesis: Nemesis) -> Iterator[str]:
    agent = nemesis.random.choice(nemesis.cluster.agents)
    agent.kill()
    yield agent.name
    agent.start()


@contextlib.contextmanager
def _pause_agent(nemesis: Nemesis) -> Iterator[str]:
    agent = nemesis.random.choice(nemesis.cluster.agents)
    agent.pause()
    try:
        yield agent.name
    finally:
        agent.resume()


# --- the network ---


def _between(left: Sequence[str], right: Sequence[str], link: Link) -> dict[tuple[str, str], Link]:
    both = [(a, b) for a in left for b in right if a != b]
    return {pair: link for a, b in both for pair in ((a, b), (b, a))}


@contextlib.contextmanager
def _links(nemesis: Nemesis, links: dict[tuple[str, str], Link]) -> Iterator[None]:
    nemesis.cluster.network.set_links(links)
    try:
        yield
    finally:
        nemesis.cluster.network.set_links({})


def _everybody(nemesis: Nemesis) -> list[str]:
    return [*(one.name for one in (*nemesis.cluster.managers, *nemesis.cluster.agents)), OWN]


@contextlib.contextmanager
def _partition(nemesis: Nemesis) -> Iterator[str]:
    """Two halves of everything: managers, agents and clients."""
    names = [one for one in _everybody(nemesis) if one != OWN]
    nemesis.random.shuffle(names)
    half = nemesis.random.randrange(1, len(names))
    with _links(nemesis, _between(names[:half], names[half:], CUT)):
        yield f"{' '.join(names[:half])} | {' '.join(names[half:])}"


@contextlib.contextmanager
def _one_way(nemesis: Nemesis) -> Iterator[str]:
    """One manager is not heard by the others, or does not hear them."""
    struck = nemesis.leader() if nemesis.random.random() < 0.5 else nemesis.managers(1)[0]
    others = [one.name for one in nemesis.cluster.managers if one is not struck]
    mute = nemesis.random.random() < 0.5
    pairs = [(struck.name, other) if mute else (other, struck.name) for other in others]
    with _links(nemesis, dict.fromkeys(pairs, CUT)):
        yield f"{struck.name} {'mute' if mute else 'deaf'}"


@contextlib.contextmanager
def _flapping(nemesis: Nemesis) -> Iterator[str]:
    """A partition that comes and goes several times a second."""
    struck = nemesis.managers(1)[0]
    cut = _between([struck.name], [o.name for o in nemesis.cluster.managers], CUT)
    for _ in range(nemesis.random.randrange(5, 20)):
        with _links(nemesis, cut):
            nemesis.rest(nemesis.random.uniform(0.05, 0.6))
        nemesis.rest(nemesis.random.uniform(0.02, 0.3))
    yield struck.name


@contextlib.contextmanager
def _leader_alone(nemesis: Nemesis) -> Iterator[str]:
    """The leader keeps its clients and agents, and loses the other managers."""
    leader = nemesis.leader()
    others = [one.name for one in nemesis.cluster.managers]
    with _links(nemesis, _between([leader.name], others, CUT)):
        yield leader.name


@contextlib.contextmanager
def _agents_cut(nemesis: Nemesis) -> Iterator[str]:
    """An agent reaches one manager only, or none."""
    agent = nemesis.random.choice(nemesis.cluster.agents)
    managers = [one.name for one in nemesis.cluster.managers]
    lost = nemesis.random.sample(
        managers, nemesis.random.choice([len(managers) - 1, len(managers)])
    )
    with _links(nemesis, _between([agent.name], lost, CUT)):
        yield f"{agent.name} from {' '.join(lost)}"


def _bad_links(draw: Callable[[random.Random], Link]) -> Fault:
    @contextlib.contextmanager
    def fault(nemesis: Nemesis) -> Iterator[str]:
        names = _everybody(nemesis)
        link = draw(nemesis.random)
        with _links(nemesis, _between(names, names, link)):
            yield f"loss {link[0]:.2f} delay {link[1]:.0f} ms jitter {link[2]:.0f} ms"

    return fault


# --- clocks ---

JUMPS_S: Final = (-7_200, -3_700, -300, -30, 30, 300, 3_700, 7_200)


@contextlib.contextmanager
def _clock_jump(nemesis: Nemesis) -> Iterator[str]:
    """The calendar of one manager or agent jumps; mostly it stays wrong until the next jump."""
    set_clocks_right(nemesis.cluster)
    managers = nemesis.random.random() < 0.75
    clock = nemesis.random.choice(
        [one.clock for one in nemesis.cluster.fault_managers()]
        if managers
        else [one.clock for one in nemesis.cluster.fault_agents()]
    )
    jump = nemesis.random.choice(JUMPS_S)
    clock.write_text(f"{jump:+d}")
    yield f"{clock.parent.name} by {jump:+d} s"
    if nemesis.random.random() < 0.3:
        set_clocks_right(nemesis.cluster)


def set_clocks_right(cluster: FaultCluster) -> None:
    """Give every manager and agent the machine's time."""
    for manager in cluster.fault_managers():
        manager.clock.write_text("+0")
    for agent in cluster.fault_agents():
        agent.clock.write_text("+0")


# --- disks ---


def _power(managers: Callable[[Nemesis], Sequence[FaultManager]]) -> Fault:
    """Power loss: what was not flushed is gone."""

    @contextlib.contextmanager
    def fault(nemesis: Nemesis) -> Iterator[str]:
        struck = managers(nemesis)
        for manager in struck:
            manager.wanted = False
            manager.disk.cut_power()
        for manager in struck:
            manager.kill()
        yield _names(struck)
        for manager in struck:
            manager.disk.remount()
            _start(manager)

    return fault


def _broken_disk(breaks: Callable[[FaultManager], object]) -> Fault:
    """The disk fails under a manager that runs on; afterwards the machine is restarted."""

    @contextlib.contextmanager
    def fault(nemesis: Nemesis) -> Iterator[str]:
        struck = nemesis.managers(1)[0]
        breaks(struck)
        yield struck.name
        struck.wanted = False
        struck.kill()
        struck.disk.remount()
        struck.disk.free()
        _start(struck)

    return fault


@contextlib.contextmanager
def _disk_full(nemesis: Nemesis) -> Iterator[str]:
    """The disk fills up under a manager, and is freed."""
    struck = nemesis.managers(1)[0]
    struck.disk.fill()
    yield struck.name
    struck.disk.free()


@contextlib.contextmanager
def _kill_at_snapshot(nemesis: Nemesis) -> Iterator[str]:
    """Kill -9 in the moment in which the engine writes a snapshot."""
    struck = nemesis.managers(1)[0]
    directory = struck.base / "disk/data/engine/member/member/snap"
    before = set(directory.glob("*"))
    until = time.monotonic() + 20
    while time.monotonic() < until and set(directory.glob("*")) <= before and struck.running:
        time.sleep(0.003)
    struck.wanted = False
    struck.kill()
    yield struck.name
    _start(struck)


@contextlib.contextmanager
def _kill_at_compaction(nemesis: Nemesis) -> Iterator[str]:
    """Kill -9 of a manager just as its engine compacts its history."""
    struck = nemesis.managers(1)[0]
    compacting = _engine_control(struck, "compact")
    assert compacting.stdout is not None
    compacting.stdout.readline()
    nemesis.rest(nemesis.random.uniform(0, 0.1))
    struck.wanted = False
    struck.kill()
    yield struck.name
    compacting.kill()
    compacting.wait()
    _start(struck)


@contextlib.contextmanager
def _engine_quota(nemesis: Nemesis) -> Iterator[str]:
    """The engine's quota is reached: nothing can be written until an operator frees space.

    As an operator does it: on a manager that serves, and again only after a while, since each time
    forgets all history and stops the member.
    """
    struck = nemesis.managers(1)[0]
    _engine_control(struck, "fill").wait(30)
    yield struck.name
    deadline = time.monotonic() + SPACE_S
    answer: object = None
    while time.monotonic() < deadline:
        with contextlib.suppress(ClusterError, OSError, ValueError):
            if struck.state() == "serving":
                recovered = struck.admin("POST", "/admin/recover-space", {})
                answer = recovered.body
                if recovered.status == 200 and not recovered.body["alarms"]:
                    return
        nemesis.rest(FREE_AGAIN_S)
    raise AssertionError(f"{struck.name} cannot free space: {answer}")


def _engine_control(manager: FaultManager, what: str) -> "subprocess.Popen[bytes]":
    argv = [sys.executable, "-m", "tests.faults.engine_control", str(manager.engine_socket), what]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _names(managers: Sequence[FaultManager]) -> str:
    return " ".join(manager.name for manager in managers)


def _one(nemesis: Nemesis) -> Sequence[FaultManager]:
    return nemesis.managers(1)


def _leader(nemesis: Nemesis) -> Sequence[FaultManager]:
    return [nemesis.leader()]


def _minority(nemesis: Nemesis) -> Sequence[FaultManager]:
    return nemesis.managers(nemesis.minority)


def _majority(nemesis: Nemesis) -> Sequence[FaultManager]:
    return nemesis.managers(len(nemesis.cluster.managers) - nemesis.minority)


def _all(nemesis: Nemesis) -> Sequence[FaultManager]:
    return nemesis.cluster.fault_managers()


FAULTS: Final[dict[str, Fault]] = {
    "kill-one": _kill(_one),
    "kill-leader": _kill(_leader),
    "kill-minority": _kill(_minority),
    "kill-majority": _kill(_majority),
    "kill-all": _kill(_all),
    "kill-engine": _kill_engine,
    "kill-at-snapshot": _kill_at_snapshot,
    "kill-at-compaction": _kill_at_compaction,
    "kill-at-rollout": kill_at_rollout,
    "lease-lost": lease_lost,
    "node-lease-lost": node_lease_lost,
    "kill-agent": _kill_agent,
    "pause-manager": _pause(_one, manager=True, engine=False),
    "pause-engine": _pause(_one, manager=False, engine=True),
    "pause-leader": _pause(_leader, manager=True, engine=True),
    "pause-majority": _pause(_majority, manager=True, engine=True),
    "pause-agent": _pause_agent,
    "partition": _partition,
    "partition-one-way": _one_way,
    "partition-flapping": _flapping,
    "leader-alone": _leader_alone,
    "agent-cut-off": _agents_cut,
    "slow-links": _bad_links(lambda draw: (0.0, draw.uniform(20, 150), draw.uniform(0, 80))),
    "lossy-links": _bad_links(lambda draw: (draw.uniform(0.02, 0.2), 0.0, 5.0)),
    "clock-jump": _clock_jump,
    "power-loss-one": _power(_one),
    "power-loss-all": _power(_all),
    "disk-full": _disk_full,
    "disk-read-only": _broken_disk(lambda manager: manager.disk.set_read_only()),
    "engine-quota": _engine_quota,
    "join-agent": join_agent,
    "join-manager": join_manager,
    "evict-agent": evict_agent,
    "disk-eio": _broken_disk(lambda manager: manager.disk.cut_power()),
    "wal-eio": log_eio,
    "disk-gone": disk_gone,
}

SORTS: Final = (
    (
        "partition",
        "partition-one-way",
        "leader-alone",
        "agent-cut-off",
        "slow-links",
        "lossy-links",
    ),
    ("kill-agent", "pause-agent"),
    ("clock-jump",),
)
"""Faults that may strike during one of another sort: links, agents, calendars."""
ALONE: Final = frozenset(
    {"join-agent", "join-manager", "evict-agent", "engine-quota", "partition-flapping"}
)
"""What waits for the cluster itself, or sets the links all the time."""
