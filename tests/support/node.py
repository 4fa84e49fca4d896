"""A node without managers: real mounts, real sockets, and services run by the real `exec`."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.mounts import File, ServiceMount
from agent.workload_socket import ControlServer, ServiceDescription, WorkloadServer
from cluster.protocol.errors import SecretNotFound
from cluster.protocol.secret_bytes import SecretBytes
from tests.support.mounts import mounts_taken_away

PYTHON = "/usr/bin/python3"
"""The system's: a dropped uid may not be able to enter the home of another interpreter."""
EXEC_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Done:
    """A finished command."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Held:
    """What the node holds: service -> target -> value."""

    values: Mapping[str, Mapping[str, bytes]]

    def ls(self, service: str) -> Sequence[Mapping[str, object]]:
        """Return the rows of a service."""
        return [{"name": name, "target": name} for name in sorted(self.values[service])]

    def get(self, service: str, name: str) -> SecretBytes:
        """Return one value of a service."""
        if name not in self.values[service]:
            raise SecretNotFound
        return SecretBytes(self.values[service][name])


class Node:
    """An agent's node side, with services `red` and `blue` of distinct uids."""

    def __init__(self, directory: Path) -> None:
        self.mounts_root = directory / "mounts"
        self.run_directory = directory / "run"
        self.uids = {"red": 61_001, "blue": 61_002}
        self.held = Held({"red": {"db": b"red-value"}, "blue": {"db": b"blue-value"}})
        self.mounts: dict[str, ServiceMount] = {}
        self.logged: set[str] = set()
        """Services that keep a log."""
        self.ids = {"red": "r" * 26, "blue": "b" * 26}
        self.workload = WorkloadServer(self.run_directory, self.held)
        self.control = ControlServer(self.run_directory, self.describe, lambda: {"ok": True})

    async def start(self) -> None:
        """Mount and listen."""
        for service, uid in self.uids.items():
            self.mount(service)
            await self.workload.open(service, uid, uid)
        await self.control.start()

    async def stop(self) -> None:
        """Stop listening; mounts stay, as when an agent dies."""
        await self.control.close()
        await self.workload.close_all()

    def mount(self, service: str) -> None:
        """Mount a service's secrets."""
        uid = self.uids[service]
        mount = ServiceMount.create_kernel(self.mounts_root, service, uid, uid, 262_144, 64)
        values = self.held.values[service]
        mount.publish([File(name, SecretBytes(value)) for name, value in values.items()])
        self.mounts[service] = mount

    def describe(self, service: str) -> ServiceDescription | None:
        """Answer `exec`."""
        if service not in self.uids:
            return None
        uid = self.uids[service]
        socket = str(self.workload.socket_path(service))
        path = str(self.mounts_root / service)
        mounted, logged = service in self.mounts, service in self.logged
        return ServiceDescription(
            service, uid, uid, path, socket, mounted, logs=logged, service_id=self.ids[service]
        )

    async def start_exec(self, service: str, *command: str) -> asyncio.subprocess.Process:
        """Start `strongroom-agent exec`."""
        arguments = ["exec", "--run-dir", str(self.run_directory), "--service", service]
        return await start_agent_command(*arguments, "--timeout", "5s", "--", *command)

    async def run_exec(self, service: str, *command: str) -> Done:
        """Run a command as a service, to its end."""
        return await finished(await self.start_exec(service, *command))

    async def run_python(self, service: str, script: str, *arguments: str) -> Done:
        """Run a script as a service, to its end."""
        return await self.run_exec(service, PYTHON, "-I", "-c", script, *arguments)


async def start_agent_command(*arguments: str) -> asyncio.subprocess.Process:
    """Start `strongroom-agent` with arguments."""
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "agent.cli.main", *arguments]
    return await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)


async def finished(process: asyncio.subprocess.Process, stdin: bytes = b"") -> Done:
    """Send the rest of its input, wait for a command's end; kill it if it never comes."""
    try:
        async with asyncio.timeout(EXEC_TIMEOUT_S):
            stdout, stderr = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Done(process.returncode or 0, stdout.decode(), stderr.decode())


@asynccontextmanager
async def running_node(directory: Path) -> AsyncIterator[Node]:
    """Yield a started node; everything it mounted goes away."""
    with mounts_taken_away(directory / "mounts"):
        node = Node(directory)
        await node.start()
        try:
            yield node
        finally:
            await node.stop()
