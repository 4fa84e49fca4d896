"""Nodes of raftos as processes, joined by a relay: started, asked, killed, cut apart.

Owns the processes; what they are to show is the business of `checks`.
"""

import asyncio
import itertools
import json
import os
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docs.lab.layout import HOST
from docs.lab.raftos.datagrams import DatagramRelay

START_TIMEOUT_S = 60.0
HEARTBEAT_S = 0.2
_PERIOD_S = 0.05
_PROGRAM = Path(__file__).with_name("node.py")


class NodeError(Exception):
    """What raftos raised instead of an answer."""


@dataclass(slots=True)
class Node:
    """One process, and how it was started."""

    name: str
    command: list[str]
    log: Path
    _process: asyncio.subprocess.Process | None = None
    _reading: "asyncio.Task[None] | None" = None
    _answers: "dict[int, asyncio.Future[Any]]" = field(default_factory=dict)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def start(self) -> None:
        """Start it, on what it wrote to its disk before if it did."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={"PATH": os.defpath},
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            if not await self._process.stdout.readline():
                raise NodeError(f"{self.name} did not start: {self.last_words()}")
        self._reading = asyncio.create_task(self._read(self._process.stdout))

    async def ask(self, do: str, **words: object) -> Any:  # noqa: ANN401  # JSON
        """Return a node's answer, whenever it comes. Raises NodeError, also when the node ends."""
        assert self._process is not None
        assert self._process.stdin is not None
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            self._process.stdin.write(json.dumps({"id": number, "do": do, **words}).encode())
            self._process.stdin.write(b"\n")
            return await self._answers[number]
        finally:
            del self._answers[number]

    async def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is None or self._reading is None:
            return
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._reading

    def last_words(self) -> str:
        """Return the last line of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it printed nothing"

    async def _read(self, stdout: asyncio.StreamReader) -> None:
        while line := await stdout.readline():
            told = json.loads(line)
            future = self._answers.get(told["id"])
            if future is None or future.done():
                continue
            if "error" in told:
                future.set_exception(NodeError(told["error"]))
            else:
                future.set_result(told["answer"])
        for future in self._answers.values():
            if not future.done():
                future.set_exception(NodeError(f"{self.name} has ended"))


@dataclass(slots=True)
class RaftosCluster:
    """Some nodes and what is between them."""

    nodes: dict[str, Node]
    relay: DatagramRelay

    def cut(self, one: Collection[str], other: Collection[str]) -> None:
        """Cut the nodes apart."""
        self.relay.cut(one, other)

    def heal(self) -> None:
        """Join them again."""
        self.relay.heal()

    async def lead(self) -> str:
        """Return the name of a node that takes itself for the leader, as soon as there is one."""
        return (await self._leader()).name

    async def settle(self) -> None:
        """Return once one leads and all others are in its term."""
        while True:
            states = [await node.ask("state") for node in self.nodes.values()]
            leaders = [one for one in states if one["role"] == "Leader"]
            if len(leaders) == 1 and {one["term"] for one in states} == {leaders[0]["term"]}:
                return
            await asyncio.sleep(_PERIOD_S)

    async def _leader(self, among: Collection[str] = ()) -> Node:
        """Return a node that takes itself for the leader, as soon as there is one."""
        while True:
            for name in among or self.nodes:
                if (await self.nodes[name].ask("state"))["role"] == "Leader":
                    return self.nodes[name]
            await asyncio.sleep(_PERIOD_S)

    async def put(self, key: str, value: str, among: Collection[str] = ()) -> str:
        """Have a leader write a value, and return who said that it is written.

        A single node is asked whatever it takes itself for.
        """
        while True:
            leader = self.nodes[one] if (one := _only(among)) else await self._leader(among)
            # One that does not lead, or no longer does, says so.
            with suppress(NodeError):
                await leader.ask("set", name=key, value=value)
                return leader.name
            await asyncio.sleep(_PERIOD_S)

    async def get(self, key: str) -> str | None:
        """Return what a leader has under a name."""
        while True:
            with suppress(NodeError):
                value: str | None = await (await self._leader()).ask("get", name=key)
                return value


def _only(names: Collection[str]) -> str:
    return next(iter(names)) if len(names) == 1 else ""


@asynccontextmanager
async def raftos_cluster(
    python: Path,
    directory: Path,
    count: int,
    *,
    repaired: bool = False,
    heartbeat_s: float = HEARTBEAT_S,
) -> AsyncIterator[RaftosCluster]:
    """Run nodes n1, n2 ... on loopback; kill them all at the end.

    `repaired`: with their majority counted right.
    """
    names = [f"n{number}" for number in range(1, count + 1)]
    _make(directory)
    ports = free_ports(count)
    relay = DatagramRelay({name: (HOST, port) for name, port in zip(names, ports, strict=True)})
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(relay)
        nodes = {}
        for name, port in zip(names, ports, strict=True):
            peers = [relay.address(name, other) for other in names if other != name]
            words = command_line(python, f"{HOST}:{port}", peers, directory / name, heartbeat_s)
            words += ["--repaired"] if repaired else []
            nodes[name] = Node(name, words, directory / f"{name}.log")
            stack.push_async_callback(nodes[name].kill)
            await nodes[name].start()
        yield RaftosCluster(nodes, relay)


def _make(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)


def command_line(
    python: Path, listen: str, peers: list[str], directory: Path, heartbeat_s: float
) -> list[str]:
    """Return what starts a node."""
    words = [str(python), str(_PROGRAM), "--listen", listen]
    words += [word for peer in peers for word in ("--peer", peer)]
    return [*words, "--directory", str(directory), "--heartbeat", str(heartbeat_s)]


def free_ports(count: int) -> list[int]:
    """Return UDP ports that were free a moment ago, all different."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    try:
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
