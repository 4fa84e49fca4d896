"""What attacks on a running cluster need: certificates of every kind, raw connections, raw records.

The *insider* holds the unlock key and so everything beneath it. Tests use it to make what no
attacker has, such as an expired certificate of the true authority, and for controls.
"""

import asyncio
import base64
import contextlib
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from cryptography.hazmat.primitives.serialization import Encoding
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

from cluster.engine.etcd import EtcdEngine
from cluster.pki.ca import Authority, issue_leaf
from cluster.pki.csr import key_to_pem, make_csr, new_key
from cluster.pki.node_envelope import NodeKeys, staged
from cluster.pki.tls import client_context
from cluster.protocol import wire
from cluster.protocol.https_client import request
from cluster.protocol.identity import Kind as IdentityKind
from cluster.protocol.identity import SpiffeId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.envelope import open_record
from cluster.seal.keyring import Keyring
from cluster.seal.unlock import SealFileContents, UnlockKey, open_seal_file
from cluster.store.key_epochs import load_wrapped_keyring
from cluster.store.records import AuthorityRecord, Kind, NodeRecord, OperatorRecord, Record
from cluster.store.records import codec as records
from cluster.system import Clock, SystemClock, SystemEntropy
from tests.support.running import (
    TRUST_DOMAIN,
    Answer,
    Credential,
    ManagerProcess,
    RunningCluster,
    credential_of,
    node_id_of,
    wait_until,
)

PATIENCE_S: Final = 30.0

R = TypeVar("R", bound=Record)
T = TypeVar("T")


def stranger_call(
    cluster: RunningCluster,
    manager: ManagerProcess,
    method: str,
    path: str,
    body: bytes | Mapping[str, Any] = b"",
) -> Answer:
    """Call the join listener, as anybody may."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = request(
        [manager.join], method, path, body=content, context=bare(cluster).context(),
        timeout_s=PATIENCE_S,
    )  # fmt: skip
    return Answer(reply.status, json.loads(reply.body), reply.headers)


class Bare(Credential):
    """Trusts the managers and shows no certificate."""

    def context(self) -> ssl.SSLContext:
        """Return the TLS context of a stranger."""
        return client_context(self.control)


def bare(cluster: RunningCluster) -> Bare:
    """Return what somebody has who knows the cluster's authorities and nothing else."""
    assert cluster.operator is not None
    return Bare(b"", b"", cluster.operator.control)


def join_node(cluster: RunningCluster, name: str) -> tuple[Credential, str]:
    """Join a node that runs no agent; return its credential and id."""
    token = cluster.ok("POST", "/v1/tokens", {"role": "worker"})["token"]
    key = new_key()
    body = {"token": token, "csr": base64.b64encode(make_csr(key)).decode(), "name": name}
    answer = stranger_call(cluster, cluster.managers[0], "POST", "/v1/join", body)
    assert answer.status == 200, answer.body
    return credential_of(answer.body, key_to_pem(key)), str(answer.body["node_id"])


def enrol_operator(cluster: RunningCluster, name: str, role: str, **labels: str) -> Credential:
    """Add an operator and enrol with the one-time token."""
    draft = {"name": name, "role": role, "labels": labels}
    token = cluster.ok("POST", "/v1/operators", draft)["token"]
    key = new_key()
    body = {"token": token, "csr": base64.b64encode(make_csr(key)).decode()}
    answer = stranger_call(cluster, cluster.managers[0], "POST", "/v1/enrol", body)
    assert answer.status == 200, answer.body
    return credential_of(answer.body, key_to_pem(key))


# --- the insider ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Insider:
    """The whole of an etcd cluster's secrets, read with the unlock key."""

    contents: SealFileContents
    keyring: Keyring
    manager: ManagerProcess

    @classmethod
    def of(cls, cluster: RunningCluster) -> "Insider":
        """Open what the first manager holds."""
        manager = cluster.managers[0]
        key = UnlockKey.parse(SecretBytes(cluster.unlock_key.encode()))
        contents, _ = open_seal_file(manager.base / "data" / "seal", key)

        async def unwrap(engine: EtcdEngine) -> Keyring:
            wrapped = await load_wrapped_keyring(engine)
            assert wrapped is not None
            return Keyring.unwrap(contents.root_key, wrapped)

        return cls(contents, asyncio.run(_on_engine(manager, unwrap)), manager)

    def all(self, kind: Kind, shape: type[R]) -> list[R]:
        """Return every record of a kind."""

        async def read(engine: EtcdEngine) -> list[R]:
            page = await engine.list_page(self.keyring.kind_prefix(kind.value))
            assert not page.more
            opened = [
                open_record(self.keyring, kind=kind.value, engine_key=one.key, sealed=one.value)
                for one in page.entries
            ]
            return [cast("R", records.decode(kind, one.plaintext)) for one in opened]

        return asyncio.run(_on_engine(self.manager, read))

    def entries(self) -> int:
        """Return how many keys the engine holds: records and audit links."""

        async def count(engine: EtcdEngine) -> int:
            page, total = await engine.list_page(b""), 0
            while True:
                total += len(page.entries)
                if not page.more:
                    return total
                page = await engine.list_page(b"", after=page.entries[-1].key)

        return asyncio.run(_on_engine(self.manager, count))

    def authority(self, role: str) -> Authority:
        """Return "root", "control" or "workload"."""
        found = next(a for a in self.all(Kind.AUTHORITY, AuthorityRecord) if a.role == role)
        return Authority.from_der(found.certificate, found.private_key)

    def issue(
        self,
        kind: IdentityKind,
        subject: str,
        *,
        serial: int | None = None,
        clock: Clock | None = None,
    ) -> Credential:
        """Return a certificate of the true authority; with `serial`, of that very number."""
        role = "workload" if kind is IdentityKind.SERVICE else "control"
        authority, key = self.authority(role), new_key()
        entropy = SystemEntropy() if serial is None else _FixedSerial(serial)
        leaf = issue_leaf(
            authority, key.public_key(), SpiffeId(TRUST_DOMAIN, kind, subject),
            timedelta(hours=1), clock or SystemClock(), entropy,
        )  # fmt: skip
        chain = b"".join(one.public_bytes(Encoding.PEM) for one in (leaf, authority.certificate))
        return Credential(chain, key_to_pem(key), (self.authority("control").to_der()[0],))

    def serial_of(self, kind: Kind, record_id: str) -> int:
        """Return the serial that speaks for a node or an operator now."""
        shape: type[NodeRecord | OperatorRecord] = (
            NodeRecord if kind is Kind.NODE else OperatorRecord
        )
        record = next(one for one in self.all(kind, shape) if one.id == record_id)
        return int(record.serials[0], 16)

    def manager_credential(self) -> Credential:
        """Return the manager's own certificate."""
        return Credential(
            self.contents.tls_certificate_chain,
            self.contents.tls_key.reveal(),
            (self.authority("control").to_der()[0],),
        )


class _FixedSerial(SystemEntropy):
    """Draws the serial of an existing certificate."""

    def __init__(self, serial: int) -> None:
        self._serial = serial

    def token(self, size: int) -> bytes:
        """Return the serial's random part."""
        return (self._serial & ~(1 << 144)).to_bytes(size)


async def _on_engine(manager: ManagerProcess, work: Callable[[EtcdEngine], Awaitable[T]]) -> T:
    socket_path = manager.base / "run" / "engine" / f"{manager.name}.sock:0"
    engine = await EtcdEngine.connect(socket_path, SystemClock(), SystemEntropy())
    try:
        return await work(engine)
    finally:
        await engine.close()


# --- raw connections -----------------------------------------------------------------------------


def tls_connection(
    address: str, context: ssl.SSLContext, source: str = "127.0.0.1"
) -> ssl.SSLSocket:
    """Return a finished handshake with host:port, coming from an address of loopback's."""
    host, _, port = address.rpartition(":")
    plain = socket.create_connection((host, int(port)), PATIENCE_S, source_address=(source, 0))
    return context.wrap_socket(plain, server_hostname=host)


def answer_of(connection: ssl.SSLSocket | socket.socket, sent: bytes) -> bytes:
    """Send bytes and return all that comes until the other side ends the connection."""
    received = b""
    try:
        connection.sendall(sent)
        while chunk := connection.recv(65_536):
            received += chunk
    except (ConnectionError, ssl.SSLError):
        pass
    return received


_KEYS: Final = NodeKeys.generate("nobody")


class RawSession:
    """A session's WebSocket in the hands of somebody who sends what he likes."""

    def __init__(self, manager: ManagerProcess, credential: Credential) -> None:
        """Open the WebSocket. Raises ConnectionError where the manager ends the connection."""
        self.keys = NodeKeys.generate(node_id_of(credential))
        self.welcome: wire.Welcome | None = None
        self._open = contextlib.ExitStack()
        try:
            opening = connect(
                f"wss://{manager.api}/v1/session",
                ssl=credential.context(),
                server_hostname="127.0.0.1",
                compression=None,
                max_size=wire.MAX_MESSAGE_BYTES,
                open_timeout=PATIENCE_S,
                proxy=None,
            )
            self._socket = self._open.enter_context(opening)
        except WebSocketException as error:
            raise ConnectionError from error

    def send(self, message: wire.FromAgent | bytes | str) -> None:
        """Send a message, raw bytes or a text frame."""
        framed = message if isinstance(message, bytes | str) else wire.encode(message)
        with contextlib.suppress(ConnectionClosed):  # `receive` tells what the manager said
            self._socket.send(framed)

    def receive(self, timeout_s: float = PATIENCE_S) -> wire.FromManager | None:
        """Return the next message; None when the session has ended."""
        try:
            frame = self._socket.recv(timeout=timeout_s)
        except (ConnectionClosed, OSError):
            return None
        assert isinstance(frame, bytes)
        return wire.decode_from_manager(frame)

    def rest(self) -> list[wire.FromManager]:
        """Return every message until the manager ends the session."""
        messages: list[wire.FromManager] = []
        while (message := self.receive()) is not None:
            messages.append(message)
        return messages

    def hello(self, **changed: object) -> wire.Welcome:
        """Open the session as an agent does."""
        self.send(hello(**{"envelope_keys": self.keys.public_keys(), **changed}))
        welcome = self.receive()
        assert isinstance(welcome, wire.Welcome), welcome
        self.welcome = welcome
        return welcome

    def values_in(self, messages: Iterable[wire.FromManager]) -> dict[str, bytes]:
        """Return the values that messages of this session carry, by secret id."""
        assert self.welcome is not None
        found = [one for one in messages if isinstance(one, wire.Values)]
        with self.keys.opening() as open_value:
            return {
                key.secret_id: open_value(value).reveal()
                for message in found
                for key, value in staged(
                    message, self.welcome.suite, self.welcome.session_id
                ).items()
            }

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(WebSocketException):  # the manager may have ended it
            self._open.close()


def hello(**changed: object) -> wire.Hello:
    """Return an agent's first message."""
    fields: dict[str, object] = {
        "formats": (wire.FORMAT,),
        "agent_version": "0",
        "boot_id": "b",
        "mounts": "kernel",
        "strength": "secure",
        "held": (),
        "highest": None,
        "envelope_keys": _KEYS.public_keys(),
    }
    return wire.Hello(**cast("dict[str, Any]", {**fields, **changed}))


def still_serves(cluster: RunningCluster) -> None:
    """Fail unless every manager that runs answers its operator."""
    for manager in cluster.managers:
        wait_until(
            lambda m=manager: cluster.call("GET", "/v1/status", managers=[m]).status == 200,  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            f"{manager.name} serves on",
        )


def open_files(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
