"""Members of etcd as processes, joined by a relay: what raftos is compared with.

They run with the timing and the options that count here of the product's own, but without TLS
between them: all of it is on loopback, in a directory that goes when the exhibit ends.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager, chdir, suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.engine import etcd_launch
from cluster.engine.etcd import EtcdEngine
from cluster.engine.etcd_member import QUOTA_BYTES
from cluster.engine.seam import Committed, Put
from cluster.protocol.errors import ClusterError
from cluster.system import SystemClock, SystemEntropy
from docs.lab.layout import HOST
from docs.lab.raftos.streams import StreamRelay

START_TIMEOUT_S = 120.0
_PERIOD_S = 0.05
_ID_BYTES = 16


@dataclass(slots=True)
class Member:
    """One process."""

    name: str
    command: list[str]
    directory: Path
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, on what it wrote to its disk before if it did."""
        # What a killed one leaves stands in the way of etcd 3.4.
        (self.directory / f"{self.name}.sock:0").unlink(missing_ok=True)
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", etcd_launch.__file__, str(os.getpid()), *self.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={},
            )

    async def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGKILL)
            await self.process.wait()


@dataclass(slots=True)
class EtcdCluster:
    """Some members and what is between them."""

    nodes: dict[str, EtcdEngine]
    """An engine on each."""
    relay: StreamRelay

    def cut(self, one: Collection[str], other: Collection[str]) -> None:
        """Cut the members apart."""
        self.relay.cut(one, other)

    def heal(self) -> None:
        """Join them again."""
        self.relay.heal()

    async def lead(self) -> str:
        """Return the name of the leading member, as soon as there is one."""
        while True:
            with suppress(ClusterError):
                leader = (await self._engine().status()).leader
                if leader:
                    return leader
            await asyncio.sleep(_PERIOD_S)

    async def settle(self) -> None:
        """Return once every member is answered by the leader."""
        for engine in self.nodes.values():
            while True:
                with suppress(ClusterError):
                    await engine.barrier()
                    break

    async def put(self, key: str, value: str, among: Collection[str] = ()) -> str:
        """Write a value through a member, and return who said that it is written."""
        name = next(iter(among or self.nodes))
        request_id = SystemEntropy().token(_ID_BYTES)
        while True:
            written = [Put(key.encode(), value.encode())]
            outcome = await self.nodes[name].transact(request_id, [], written)
            if isinstance(outcome, Committed):
                return name

    async def get(self, key: str) -> str | None:
        """Return what a majority has under a name."""
        while True:
            with suppress(ClusterError):
                entry = await self._engine().read(key.encode())
                return entry.value.decode() if entry else None

    def _engine(self) -> EtcdEngine:
        return next(iter(self.nodes.values()))


@asynccontextmanager
async def etcd_cluster(
    program: Path, directory: Path, count: int, *, quota_bytes: int = QUOTA_BYTES
) -> AsyncIterator[EtcdCluster]:
    """Run members n1, n2 ... on loopback; kill them all at the end."""
    names = [f"n{number}" for number in range(1, count + 1)]
    _make(directory)
    addresses = {name: (HOST, port) for name, port in zip(names, free_ports(count), strict=True)}
    async with AsyncExitStack() as stack:
        # A socket's path has room for a hundred bytes: both sides name it from here.
        stack.enter_context(chdir(directory))
        relay = await stack.enter_async_context(StreamRelay(addresses))
        initial = ",".join(f"{name}=http://{relay.address(name)}" for name in names)
        nodes = {}
        for name, (_, port) in addresses.items():
            command = command_line(program, name, port, relay.address(name), initial)
            command.append(f"--quota-backend-bytes={quota_bytes}")
            socket_path = Path(f"{name}.sock:0")
            member = Member(name, command, directory)
            stack.push_async_callback(member.kill)
            await member.start()
            nodes[name] = await EtcdEngine.connect(
                socket_path, SystemClock(), SystemEntropy(), quota_bytes=quota_bytes
            )
            stack.push_async_callback(nodes[name].close)
        cluster = EtcdCluster(nodes, relay)
        async with asyncio.timeout(START_TIMEOUT_S):
            await cluster.settle()
        known = await next(iter(nodes.values())).status()
        relay.know({member.member_id: member.name for member in known.members})
        yield cluster


def _make(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)


def command_line(program: Path, name: str, port: int, advertised: str, initial: str) -> list[str]:
    """Return what starts a member."""
    options = {
        "name": name,
        "data-dir": f"{name}.data",
        "listen-peer-urls": f"http://{HOST}:{port}",
        "initial-advertise-peer-urls": f"http://{advertised}",
        "listen-client-urls": f"unix://{name}.sock:0",
        "advertise-client-urls": f"unix://{name}.sock:0",
        "initial-cluster": initial,
        "initial-cluster-state": "new",
        "heartbeat-interval": 50,
        "election-timeout": 500,
        "pre-vote": "true",
        "logger": "zap",
    }
    return [str(program), *(f"--{option}={value}" for option, value in options.items())]


def free_ports(count: int) -> list[int]:
    """Return TCP ports that were free a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
