"""The agent's two kinds of local sockets: one for each service, and one for root.

    <run dir>/workload/<service>/workload.sock   the service's uid only: `ls`, `get`
    <run dir>/control.sock                       root and the agent only: `service`, `status`

Owns the operations; values come from the source it is given. Towards a service "not yours" and
"not there" are one answer.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from agent.local_server import Access, LocalServer
from cluster.protocol.errors import (
    MalformedMessage,
    NotFound,
    PermissionDenied,
    ServiceNotFound,
)
from cluster.protocol.ids import check_service_name
from cluster.protocol.secret_bytes import SecretBytes

CONTROL_SOCKET = "control.sock"
WORKLOAD_SOCKET = "workload.sock"
WORKLOAD_DIRECTORY = "workload"


class WorkloadSource(Protocol):
    """Where a service's secrets come from: what the agent holds for it now."""

    def ls(self, service: str) -> Sequence[Mapping[str, object]]:
        """Return what the service may get: JSON-ready rows, `name` and `target` among them."""
        ...

    def get(self, service: str, name: str) -> SecretBytes:
        """Return one value by secret name or target; raises NotFound or PermissionDenied."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceDescription:
    """What `exec` must know of a service. `mounted`: its first set is in place."""

    service: str
    uid: int
    gid: int
    mount_path: str
    workload_socket: str
    mounted: bool
    hidden: tuple[str, ...] = ()
    """Further directories that the service must not see."""
    logs: bool = False
    """Whether the last lines of its output are kept for `service logs`."""
    service_id: str = ""
    """Tells it from an earlier service of its name, which others may have owned."""


class WorkloadServer:
    """One socket for each service on the node."""

    def __init__(self, run_directory: Path, source: WorkloadSource) -> None:
        self._directory = run_directory / WORKLOAD_DIRECTORY
        self._source = source
        self._servers: dict[str, LocalServer] = {}

    def socket_path(self, service: str) -> Path:
        """Return where the service's socket is, or would be."""
        return self._directory / check_service_name(service) / WORKLOAD_SOCKET

    async def open(self, service: str, uid: int, gid: int) -> Path:
        """Listen for a service: only a process of its uid is answered. Returns the path."""
        path = self.socket_path(service)
        if service in self._servers:
            return path
        _make_passable(self._directory)
        path.parent.mkdir(exist_ok=True)
        os.chown(path.parent, -1, gid)
        path.parent.chmod(0o750)
        await self.open_at(path, service, uid, gid, frozenset({uid}))
        return path

    async def open_at(
        self, path: Path, service: str, uid: int, gid: int, peers: frozenset[int] | None
    ) -> None:
        """Listen on a path in a directory that only this service reaches (a given volume).

        `peers` None: the directory is the whole proof, for containers whose uid is not known.
        """
        access = Access(uid, gid, 0o660, peers)
        server = LocalServer(path, access, lambda request: self._answer(service, request))
        await server.start()
        self._servers[service] = server

    async def close(self, service: str) -> None:
        """Stop listening for a service."""
        server = self._servers.pop(service, None)
        if server is not None:
            await server.close()

    async def close_all(self) -> None:
        """Stop listening for every service."""
        for service in list(self._servers):
            await self.close(service)

    def _answer(self, service: str, request: Mapping[str, object]) -> SecretBytes:
        match request:
            case {"op": "ls"}:
                return _as_json(list(self._source.ls(service)))
            case {"op": "get", "name": str(name)}:
                try:
                    return self._source.get(service, name)
                except NotFound:
                    raise PermissionDenied from None
            case _:
                raise MalformedMessage("operations are ls, and get with a name")


class ControlServer:
    """The root-only socket of one agent."""

    def __init__(
        self,
        run_directory: Path,
        describe: Callable[[str], ServiceDescription | None],
        status: Callable[[], Mapping[str, object]],
    ) -> None:
        self._describe = describe
        self._status = status
        self.path = run_directory / CONTROL_SOCKET
        own = os.geteuid()
        access = Access(own, os.getegid(), 0o600, frozenset({0, own}))
        self._server = LocalServer(self.path, access, self._answer)

    async def start(self) -> None:
        """Listen. Raises AlreadyExists when another agent uses the run directory."""
        _make_passable(self.path.parent)
        await self._server.start()

    async def close(self) -> None:
        """Stop listening."""
        await self._server.close()

    def _answer(self, request: Mapping[str, object]) -> SecretBytes:
        match request:
            case {"op": "service", "name": str(name)}:
                description = self._describe(name)
                if description is None:
                    raise ServiceNotFound(f"service {name!r} is not placed on this node")
                return _as_json(asdict(description))
            case {"op": "status"}:
                return _as_json(dict(self._status()))
            case _:
                raise MalformedMessage("operations are status, and service with a name")


def _make_passable(directory: Path) -> None:
    """Make a directory that services pass through by name but cannot list, whatever the umask."""
    if not directory.exists():
        directory.mkdir(parents=True)
        directory.chmod(0o711)


def _as_json(value: object) -> SecretBytes:
    return SecretBytes(json.dumps(value).encode())
