"""A unix socket that answers one small request a connection.

Owns the listening socket, its permissions, the limits and the framing (`agent.local_call`). It
knows no operation: `answer` decides. Every connection has one deadline for all of it, and there is
a bound on how many are open, so that a service can exhaust nothing but its own socket.
"""

import asyncio
import json
import os
import socket
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from agent.attestation import Peer, attested
from agent.local_call import MAX_LINE_BYTES, PROTOCOL_VERSION, short_address
from cluster.protocol.errors import (
    AlreadyExists,
    ClusterError,
    InvalidReference,
    MalformedMessage,
    PermissionDenied,
    TooManyRequests,
)
from cluster.protocol.secret_bytes import SecretBytes

log = structlog.get_logger()

REQUEST_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 32

Answer = Callable[[Mapping[str, object]], SecretBytes]
"""Takes a decoded request, returns the body; raises ClusterError to refuse."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect: `uid` and `gid` own the socket; `peers` None: whoever reaches the path."""

    uid: int
    gid: int
    mode: int
    peers: frozenset[int] | None


class LocalServer:
    """Serves one socket until closed. The caller owns it and closes it."""

    def __init__(self, path: Path, access: Access, answer: Answer) -> None:
        self._path = path
        self._access = access
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises AlreadyExists when another process answers on the socket."""
        listening = _bind(self._path, self._access)
        self._server = await asyncio.start_unix_server(
            self._on_connection, sock=listening, limit=MAX_LINE_BYTES
        )

    async def close(self) -> None:
        """Stop listening, drop connections, and remove the socket."""
        if self._server is None:
            return
        self._server.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open, timeout=REQUEST_TIMEOUT_S)
        self._server = None
        self._path.unlink(missing_ok=True)

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._open.add(task)
            task.add_done_callback(self._open.discard)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                await self._exchange(reader, writer)
        except (TimeoutError, OSError):
            log.info("local.connection_dropped", socket=self._path.name)
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if len(self._open) > MAX_CONNECTIONS:
                raise TooManyRequests
            request = _decode(await _read_line(reader))
            body = self._attest_and_answer(writer, request)
        except ClusterError as error:
            log.info("local.refused", socket=str(self._path), code=error.code)
            writer.write(_header(ok=False, code=error.code, message=error.message))
        else:
            writer.write(_header(ok=True, size=len(body)))
            writer.write(body.reveal())
        await writer.drain()

    def _attest_and_answer(
        self, writer: asyncio.StreamWriter, request: Mapping[str, object]
    ) -> SecretBytes:
        # A duplicate, because event loops differ in what their socket object can do.
        fd = os.dup(writer.get_extra_info("socket").fileno())
        with socket.socket(fileno=fd) as connection, attested(connection, self._access.peers) as p:
            return self._checked_answer(p, request)

    def _checked_answer(self, peer: Peer, request: Mapping[str, object]) -> SecretBytes:
        body = self._answer(request)
        log.debug("local.answered", op=request.get("op"), uid=peer.uid, strength=peer.strength)
        return body


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\n")
    except (asyncio.LimitOverrunError, asyncio.IncompleteReadError):
        raise MalformedMessage from None


def _decode(line: bytes) -> Mapping[str, object]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise MalformedMessage from None
    if not isinstance(request, dict) or request.get("v") != PROTOCOL_VERSION:
        raise MalformedMessage(f"this agent speaks version {PROTOCOL_VERSION} of the protocol")
    return request


def _header(**fields: object) -> bytes:
    return json.dumps({"v": PROTOCOL_VERSION, **fields}).encode() + b"\n"


def _bind(path: Path, access: Access) -> socket.socket:
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_address(path) as address:
            listening.bind(address)
        # Nobody can connect before `listen`, so the order of these two opens no window.
        _give(path, access)
        path.chmod(access.mode)
        listening.listen(MAX_CONNECTIONS)
    except BaseException:
        listening.close()
        raise
    return listening


def _give(path: Path, access: Access) -> None:
    found = path.stat()
    if (found.st_uid, found.st_gid) == (access.uid, access.gid):
        return
    try:
        os.chown(path, access.uid, access.gid)
    except PermissionError:
        # An agent without capabilities: the setgid directory has given the group already.
        if found.st_gid != access.gid:
            raise InvalidReference(
                f"cannot give {path} to group {access.gid}; make its directory setgid to it"
            ) from None


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise AlreadyExists(f"{path} exists and is no socket; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, short_address(path) as address:
        try:
            probe.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except PermissionError:
            raise PermissionDenied(f"{path} belongs to another user") from None
    raise AlreadyExists(f"another agent answers on {path}; stop it first")
