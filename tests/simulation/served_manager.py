"""A naive manager on real mutual TLS: WebSocket sessions on one port, joining by HTTP on another.

Stands in for the network's other end; what it says is the naive manager's.
"""

import asyncio
import hashlib
import ssl
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from agent.identity import AgentIdentity
from cluster.pki import csr
from cluster.pki.ca import issue_leaf
from cluster.pki.tls import server_context
from cluster.protocol import wire
from cluster.protocol.identity import Kind, SpiffeId
from cluster.system import Clock
from tests.simulation.naive_manager import History, NaiveManager
from tests.support.authority import ClusterAuthority, Credential


class ServedManager:
    """A naive manager that listens."""

    def __init__(self, name: str, history: History, authority: ClusterAuthority) -> None:
        self.core = NaiveManager(name, history)
        self.authority = authority
        self.issues_at: Clock = authority.clock
        self.sessions: dict[int, ServerConnection] = {}
        self.peers: list[str] = []
        """Fingerprint of each client certificate that opened a session."""
        self.sent: list[wire.FromManager] = []
        self.renewals = 0
        self.joins: list[dict[str, str]] = []
        self.port = 0
        self.join_port = 0
        self._count = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def join_address(self) -> str:
        return f"127.0.0.1:{self.join_port}"

    async def push(self) -> None:
        """Follow the history and send what changed."""
        self.core.view = self.core.history.newest
        for link, connection in list(self.sessions.items()):
            for message in self.core.changes(link):
                await connection.send(wire.encode(message))

    async def tell(self, message: wire.FromManager) -> None:
        """Send a message over every session."""
        for connection in list(self.sessions.values()):
            await connection.send(wire.encode(message))

    async def cut(self) -> None:
        """Drop every session without a word."""
        for connection in list(self.sessions.values()):
            connection.transport.abort()

    def issue(self, request: bytes) -> tuple[bytes, ...]:
        """Return a chain for the key of a request."""
        leaf = issue_leaf(
            self.authority.control,
            csr.check_csr(request),
            SpiffeId(self.authority.trust_domain, Kind.NODE, "node1"),
            timedelta(hours=1),
            self.issues_at,
            self.authority.entropy,
        )
        return tuple(_der(one) for one in (leaf, self.authority.control.certificate))

    async def session(self, connection: ServerConnection) -> None:
        """Serve one agent."""
        self._count += 1
        link = self._count
        peer = connection.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self.peers.append(hashlib.sha256(peer).hexdigest())
        self.sessions[link] = connection
        try:
            async for frame in connection:
                assert isinstance(frame, bytes)
                for answer in self._answers(link, wire.decode_from_agent(frame)):
                    self.sent.append(answer)
                    await connection.send(wire.encode(answer))
        except ConnectionClosed:
            pass
        finally:
            del self.sessions[link]
            self.core.forget(link)

    def _answers(self, link: int, message: wire.FromAgent) -> list[wire.FromManager]:
        if isinstance(message, wire.SigningRequest):
            self.renewals += 1
            bundle = self.authority.bundle()
            chain = self.issue(message.csr)
            return [wire.Certificate(chain, bundle.roots, bundle.control, bundle.workload)]
        answers = self.core.receive(link, message)
        for index, answer in enumerate(answers):
            if isinstance(answer, wire.Welcome):
                answers[index] = msgspec.structs.replace(
                    answer, managers=(self.address,), join_addresses=(self.join_address,)
                )
        return answers

    async def answer_http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one request of the join listener."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split("\r\n")[0].split(" ")
        length = next(
            (
                int(x.split(":")[1])
                for x in head.lower().split("\r\n")
                if x.startswith("content-length")
            ),
            0,
        )
        body = await reader.readexactly(length)
        content = self._http(method, path, body)
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n")
        writer.write(f"content-length: {len(content)}\r\n\r\n".encode() + content)
        await writer.drain()
        writer.close()

    def _http(self, method: str, path: str, body: bytes) -> bytes:
        if (method, path) == ("GET", "/v1/ca"):
            return msgspec.json.encode(self.authority.bundle().to_dict())
        asked = msgspec.json.decode(body, type=dict[str, str])
        self.joins.append(asked)
        request = b64decode(asked["csr"])
        if path == "/v1/return":
            old = x509.load_der_x509_certificate(b64decode(asked["certificate"]))
            old_key = old.public_key()
            assert isinstance(old_key, ec.EllipticCurvePublicKey)
            csr.verify_return_request(old_key, request, b64decode(asked["signature"]))
        reply = {
            "node_id": "node1",
            "trust_domain": self.authority.trust_domain,
            "certificate_chain": [b64encode(der).decode() for der in self.issue(request)],
            "bundle": self.authority.bundle().to_dict(),
            "managers": [self.address],
            "join_addresses": [self.join_address],
        }
        return msgspec.json.encode(reply)

    def identity(self) -> AgentIdentity:
        """Return a joined node's identity."""
        key = csr.new_key()
        return AgentIdentity(
            name="node-one",
            id=SpiffeId(self.authority.trust_domain, Kind.NODE, "node1"),
            key=key,
            chain=self.issue(csr.make_csr(key)),
            bundle=self.authority.bundle(),
            managers=(self.address,),
            join_addresses=(self.join_address,),
        )


@asynccontextmanager
async def served(
    manager: ServedManager, credential: Credential | None = None
) -> AsyncIterator[ServedManager]:
    """Let `manager` listen on loopback, with a manager's certificate unless told otherwise."""
    shown = credential or manager.authority.issue(Kind.MANAGER, manager.core.name)
    sessions = await _serve_sessions(manager, shown)
    context = server_context(shown.chain_pem, shown.key_pem, None)
    joins = await asyncio.start_server(manager.answer_http, "127.0.0.1", 0, ssl=context)
    manager.port = sessions.sockets[0].getsockname()[1]
    manager.join_port = joins.sockets[0].getsockname()[1]
    try:
        yield manager
    finally:
        sessions.close()
        joins.close()
        await sessions.wait_closed()


async def _serve_sessions(manager: ServedManager, shown: Credential) -> Server:
    context: ssl.SSLContext = server_context(
        shown.chain_pem, shown.key_pem, manager.authority.control_der
    )
    return await serve(manager.session, "127.0.0.1", 0, ssl=context, compression=None)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
