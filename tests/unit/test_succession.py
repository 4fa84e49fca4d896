"""Whether the cluster went on without this manager, as its member and its peers tell it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cluster.config import Address, Config
from cluster.engine.etcd_member import EtcdMember, MemberSettings
from cluster.engine.etcd_peers import CLUSTER_HEADER
from cluster.engine_start import StartedEngine
from cluster.pki.ca import issue_engine_certificate, new_engine_authority
from cluster.protocol.errors import NoQuorum, PermissionDenied, Unavailable
from cluster.quorum_recovery import look_at_loss
from cluster.succession import look_for_successor, require_no_successor
from tests.support.clock import ManualClock
from tests.support.entropy import SeededEntropy
from tests.support.running import free_ports

OLD, NEW = "a1", "b2"


class WithoutQuorum:
    """The port of an engine whose majority is gone."""

    async def barrier(self) -> None:
        """Refuse."""
        raise NoQuorum

    async def status(self) -> None:
        """Refuse."""
        raise NoQuorum


@dataclass
class Peers:
    """Peer listeners as etcd's members have them, on loopback; each says whose it is."""

    directory: Path
    seed: int
    addresses: list[str]
    names: dict[str, str] = field(default_factory=dict)
    """Address -> the cluster that its member says it is of."""
    silent: int = 0
    """Requests that are not answered yet."""
    _servers: AsyncExitStack = field(default_factory=AsyncExitStack)

    def __post_init__(self) -> None:
        authority = new_engine_authority(ManualClock(), SeededEntropy(self.seed))
        certificate, key = issue_engine_certificate(authority, "m", ["127.0.0.1"])
        self.identity, self.authority = self.directory / "peer.pem", self.directory / "ca.pem"
        self.identity.write_bytes(certificate + key)
        self.authority.write_bytes(authority.certificate.public_bytes(Encoding.PEM))

    async def listen(self, address: str, name: str) -> None:
        """Answer at an address."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.identity)
        self.names[address] = name

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if self.silent:
                self.silent -= 1
            else:
                writer.write(self._said(address))
            writer.close()

        host, _, port = address.rpartition(":")
        server = await asyncio.start_server(answer, host, int(port), ssl=context)
        self._servers.callback(server.close)

    def _said(self, address: str) -> bytes:
        members = ",".join(f'{{"peerURLs":["https://{one}"]}}' for one in self.addresses)
        body = f"[{members}]".encode()
        name = self.names[address]
        head = f"HTTP/1.1 200 OK\r\n{CLUSTER_HEADER}: {name}\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def started(self) -> StartedEngine:
        """Return the engine of the first, whose member nobody started."""
        settings = MemberSettings(
            name="m1",
            program=Path("/nonexistent"),
            data_dir=self.directory,
            run_dir=self.directory,
            peer_listen=self.addresses[0],
            peer_advertise=self.addresses[0],
            cluster_token="t",  # etcd's word for a name
            peer_pem=self.identity,
            peer_ca_pem=self.authority,
        )
        return StartedEngine(WithoutQuorum(), member=EtcdMember(settings))  # type: ignore[arg-type]  # a port

    def config(self) -> Config:
        """Return the configuration of the first."""
        peer = Address.parse(self.addresses[0], 0)
        return Config("m1", "127.0.0.1", self.directory, self.directory, peer, peer, peer)

    async def close(self) -> None:
        """Answer no more."""
        await self._servers.aclose()


@asynccontextmanager
async def _peers(directory: Path, seed: int, count: int) -> AsyncIterator[Peers]:
    peers = Peers(directory, seed, [f"127.0.0.1:{port}" for port in free_ports(count)])
    try:
        yield peers
    finally:
        await peers.close()


@pytest.fixture
async def five(tmp_path: Path, seed: int) -> AsyncIterator[Peers]:
    """A manager of five that sees one other; the rest is gone."""
    async with _peers(tmp_path, seed, 5) as peers:
        await peers.listen(peers.addresses[0], OLD)
        yield peers


@pytest.mark.threat("T-52")
@pytest.mark.control("T-52", without="cluster/succession.py::require_no_successor")
async def test_second_survivor_is_not_recovered_after_the_first(
    five: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks in the end: then there would be two lives of one past."""
    await five.listen(five.addresses[1], NEW)
    with pytest.raises(PermissionDenied, match="recovered without this manager"):
        await look_at_loss(five.config(), five.started())

    async def nobody_looks(_started: StartedEngine) -> None:
        return

    monkeypatch.setattr("cluster.quorum_recovery.require_no_successor", nobody_looks)
    loss = await look_at_loss(five.config(), five.started())
    assert five.addresses[1] not in loss.unreachable


async def test_survivor_beside_another_of_its_life_may_be_recovered(five: Peers) -> None:
    """The control."""
    await five.listen(five.addresses[1], OLD)
    loss = await look_at_loss(five.config(), five.started())
    assert loss.own == five.addresses[0]
    assert loss.voters == tuple(five.addresses)
    assert loss.unreachable == tuple(five.addresses[2:])


async def test_own_member_that_tells_late_is_asked_again(five: Peers) -> None:
    """It is silent at first: that is no reason to serve beside a new life."""
    await five.listen(five.addresses[1], NEW)
    five.silent = 2
    with pytest.raises(PermissionDenied):
        await require_no_successor(five.started())
    five.names[five.addresses[1]] = OLD
    await require_no_successor(five.started())


async def test_own_member_that_does_not_tell_lets_nobody_serve(five: Peers) -> None:
    """Whoever still waits goes on waiting."""
    await five.close()
    await look_for_successor(five.started())
    with pytest.raises(Unavailable, match=five.addresses[0]):
        await require_no_successor(five.started(), 0.3)
