"""`SimulatedFleet`: thousands of agents in this process, against a running cluster.

    with SimulatedFleet.of(cluster) as fleet:
        fleet.start(1_000)
        started_s = time.monotonic()
        version = cluster.rotate("db", b"new")
        latencies = fleet.wait_applied("db", version, since_s=started_s)

Each agent is `agent.main.Agent` with its own key, certificate, address and directory; all share one
event loop in a thread of its own, and one tmpfs. Every method may be called from any thread.
"""

import asyncio
import logging
import math
import os
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import structlog

from agent.mount_proof import MountProof
from cluster.system import SystemClock
from tests.scale.directories import MOUNT, PREFIX, mounted_tmpfs, remove_abandoned
from tests.scale.joins import CALLERS, join_all
from tests.scale.simulated_agent import SimulatedAgent, Witness
from tests.scale.sources import SourceLoop, address_of, source_address
from tests.support.entropy import SeededEntropy
from tests.support.running import Credential, RunningCluster

T = TypeVar("T")

PATIENCE_S: Final = 120.0
STARTS_AT_ONCE: Final = 64
"""Agents that are started and have not synced: as many handshakes as end in time on a busy
machine."""
_LOOK_S: Final = 0.05
_LAG_LOOK_S: Final = 0.1
_DESCRIPTORS_LEFT: Final = 512
_DESCRIPTORS_EACH: Final = 2
"""Of an agent: its connection and its lock; each service in place has one more."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long one agent took, in seconds since the moment that was asked for."""

    written_s: float
    """Until the new bytes were in its files."""
    acked_s: float
    """Until its ack was on its way."""


@dataclass(slots=True)
class _Member:
    """One agent of the fleet, running or not."""

    name: str
    number: int
    base: Path
    witness: Witness
    agent: SimulatedAgent | None = None
    task: asyncio.Task[None] | None = None
    stop: asyncio.Event | None = None


class SimulatedFleet:
    """Many agents in one process. Use it as a context manager."""

    def __init__(
        self,
        join_addresses: Sequence[str],
        new_token: Callable[[int], str],
        *,
        prefix: str = "fleet",
        seed: int = 0,
    ) -> None:
        """`new_token`: returns a worker's join token that admits so many."""
        self._join_addresses = tuple(join_addresses)
        self._new_token = new_token
        self._prefix = prefix
        self._seed = seed
        self._members: dict[str, _Member] = {}
        self._stack = ExitStack()
        self._loop = SourceLoop()
        self._thread = threading.Thread(target=self._run_loop, name="fleet", daemon=True)
        self._proof: MountProof
        self._base: Path
        self.lags_s: list[float] = []
        """How late the fleet's event loop was, at each look since it was last cleared."""
        self.failures: list[str] = []
        """Agents that ended by themselves."""

    @classmethod
    def of(cls, cluster: RunningCluster, *, prefix: str = "fleet", seed: int = 0) -> Self:
        """Return a fleet for a cluster; it joins by tokens of the cluster's operator."""

        def new_token(uses: int) -> str:
            made = cluster.ok("POST", "/v1/tokens", {"role": "worker", "uses": uses})
            return str(made["token"])

        return cls([one.join for one in cluster.managers], new_token, prefix=prefix, seed=seed)

    def __enter__(self) -> Self:
        _raise_descriptor_limit()
        remove_abandoned(Path(tempfile.gettempdir()))
        self._base = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self._stack.callback(shutil.rmtree, self._base, ignore_errors=True)
        self._proof = self._stack.enter_context(mounted_tmpfs(self._base / MOUNT))
        self._stack.callback(structlog.configure, **structlog.get_config())
        quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
        structlog.configure(wrapper_class=quiet)
        self._thread.start()
        self._submit(self._measure_lag)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(30)
            self._stack.close()

    # --- growing and shrinking ------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """Every agent that joined."""
        return tuple(self._members)

    @property
    def running(self) -> tuple[str, ...]:
        """Every agent that runs."""
        return tuple(name for name, one in self._members.items() if one.task is not None)

    def join(self, count: int) -> None:
        """Join so many more agents, which do not run yet."""
        first = len(self._members)
        new = [self._new_member(number) for number in range(first, first + count)]
        callers = min(CALLERS, count)
        tokens = [self._new_token(count) for _ in range(callers)]
        places = {one.name: one.base / "data" for one in new}
        self._call(join_all(self._join_addresses, tokens, places), PATIENCE_S + count)
        self._members |= {one.name: one for one in new}

    def start(self, count: int, patience_s: float = PATIENCE_S) -> None:
        """Have `count` agents run in all, joining what lacks; return once each has synced."""
        if (missing := count - len(self._members)) > 0:
            self.join(missing)
        resting = [name for name, one in self._members.items() if one.task is None]
        self.return_(resting[: max(count - len(self.running), 0)], patience_s)

    def return_(self, names: Collection[str], patience_s: float = PATIENCE_S) -> dict[str, float]:
        """Start agents that joined; return how many seconds each took until it was synced."""
        return self._call(self._start(list(names), patience_s), patience_s * 2)

    def leave(self, names: Collection[str]) -> None:
        """Stop agents; their files stay as an agent's death leaves them."""
        self._call(self._stop(list(names)), PATIENCE_S)

    def cut(self, names: Collection[str] = ()) -> None:
        """Cut the connections of agents (of none named: all) without a word; they come back."""
        self._call(self._cut(list(names or self.running)), PATIENCE_S)

    def stop(self) -> None:
        """Stop every agent."""
        self.leave(self.running)

    # --- looking --------------------------------------------------------------------------------

    def wait_synced(self, patience_s: float = PATIENCE_S) -> None:
        """Return once every running agent is in session and has its assignments."""
        self._call(self._until(self._unsynced, "agents in session", patience_s), patience_s * 2)

    def wait_applied(
        self, secret: str, version: int, since_s: float, patience_s: float = PATIENCE_S
    ) -> dict[str, Latency]:
        """Return what each running agent that has a file of `secret` took to have `version`.

        `since_s`: a moment of CLOCK_MONOTONIC. Raises AssertionError, naming agents, if some do
        not have it, or have not acknowledged it, after `patience_s` seconds.
        """

        def behind() -> list[str]:
            return [
                name
                for name in self.running
                if (held := self._members[name].witness.held.get(secret)) is not None
                and (held.version < version or held.acked_s is None)
            ]

        self._call(self._until(behind, f"{secret} {version}", patience_s), patience_s * 2)
        found = {name: self._members[name].witness.held.get(secret) for name in self.running}
        return {
            name: Latency(held.written_s - since_s, (held.acked_s or math.inf) - since_s)
            for name, held in found.items()
            if held is not None and held.version >= version
        }

    def holders(self, secret: str) -> tuple[str, ...]:
        """Return the agents, running or not, that have a file of a secret."""
        return tuple(name for name, one in self._members.items() if secret in one.witness.held)

    def read(self, name: str, service: str) -> dict[str, bytes]:
        """Return the files that an agent has for a service, by target."""
        directory = self._members[name].base / "given" / service
        try:
            return {path.name: path.read_bytes() for path in directory.glob("[!.]*")}
        except FileNotFoundError:
            return {}

    def agent(self, name: str) -> SimulatedAgent:
        """Return a running agent."""
        found = self._members[name].agent
        assert found is not None, f"{name} does not run"
        return found

    def credential(self, name: str) -> Credential:
        """Return an agent's certificate and key."""
        return Credential.of_node(self._members[name].base / "data")

    def in_place(self) -> int:
        """Return how many services the running agents have files of, in all, as they know it."""
        agents = [one.agent for one in self._members.values()]
        return sum(agent.services_in_place for agent in agents if agent is not None)

    def services(self, name: str) -> frozenset[str]:
        """Return the services of which an agent has files."""
        directory = self._members[name].base / "given"
        found = directory.iterdir() if directory.is_dir() else ()
        return frozenset(path.name for path in found if (path / "..data").is_symlink())

    # --- within the loop ------------------------------------------------------------------------

    async def _start(self, names: list[str], patience_s: float) -> dict[str, float]:
        """Start agents, so many at once, and return what each took."""
        taken: dict[str, float] = {}
        began_s: dict[str, float] = {}
        waiting = iter(names)

        def lacking() -> list[str]:
            # One look at all that are under way: a look of each at itself costs their square.
            now_s = time.monotonic()
            open_ones = self._unsynced(began_s)
            for name in began_s.keys() - set(open_ones):
                taken[name] = now_s - began_s.pop(name)
            for name in islice(waiting, STARTS_AT_ONCE - len(began_s)):
                began_s[name] = now_s
                context = copy_context()
                context.run(self._begin, self._members[name])
            return list(began_s)

        await self._until(lacking, "agents in session", patience_s)
        return taken

    def _begin(self, member: _Member) -> None:
        if member.task is not None:
            return
        source_address.set(address_of(member.number))  # of this task and all that come from it
        entropy = SeededEntropy(self._seed * 1_000_003 + member.number)
        member.agent = SimulatedAgent(
            member.base, self._proof, member.witness, SystemClock(), entropy
        )
        member.stop = asyncio.Event()
        member.task = asyncio.get_running_loop().create_task(member.agent.run(member.stop))
        member.task.add_done_callback(lambda task: self._ended(member, task))

    def _ended(self, member: _Member, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures.append(f"{member.name}: {error!r}")
        member.task = member.agent = member.stop = None

    async def _stop(self, names: list[str]) -> None:
        tasks = []
        for name in names:
            member = self._members[name]
            if member.task is not None and member.stop is not None:
                member.stop.set()
                tasks.append(member.task)
        if tasks:
            await asyncio.wait(tasks)

    async def _cut(self, names: list[str]) -> None:
        for name in names:
            if (agent := self._members[name].agent) is not None:
                agent.cut()

    def _unsynced(self, names: Collection[str] | None = None) -> list[str]:
        members = [self._members[name] for name in (self.running if names is None else names)]
        return [one.name for one in members if one.agent is None or not one.agent.is_synced]

    async def _until(self, lacking: Callable[[], list[str]], what: str, patience_s: float) -> None:
        deadline_s = time.monotonic() + patience_s
        while lacks := lacking():
            if self.failures:
                raise AssertionError(f"an agent of the fleet ended: {self.failures[0]}")
            if time.monotonic() > deadline_s:
                some = ", ".join(lacks[:5])
                raise AssertionError(f"not true after {patience_s:.0f} s: {what}; {some}")
            await asyncio.sleep(_LOOK_S)

    async def _measure_lag(self) -> None:
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(_LAG_LOOK_S)
            self.lags_s.append(time.monotonic() - before_s - _LAG_LOOK_S)

    # --- the thread -----------------------------------------------------------------------------

    def _new_member(self, number: int) -> _Member:
        name = f"{self._prefix}-{number:05}"
        base = self._base / MOUNT / name
        base.mkdir(mode=0o700)
        return _Member(name, number, base, Witness())

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(_handle)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(_end_all())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def _submit(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(work(), self._loop)

    def _call(self, work: Coroutine[Any, Any, T], patience_s: float) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(patience_s)


def _handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Pass over handshakes that were cut: uvloop tells of each, and the agents tell by retrying."""
    message = str(context.get("message", ""))
    cut = isinstance(context.get("exception"), ConnectionError)
    if not (cut or message.startswith("Fatal error on SSL protocol")):
        loop.default_exception_handler(context)


async def _end_all() -> None:
    """Cancel whatever still runs, and wait for its end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _raise_descriptor_limit() -> None:
    """Allow this process as many descriptors as it may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
