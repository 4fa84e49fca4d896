"""Somebody inside the session's TLS: what he reads, and what an agent takes from him.

Every refusal stands beside the same exchange unchanged, which the node does open.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from agent.config import AgentConfig
from cluster.pki.node_envelope import Recipient
from cluster.protocol import wire
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.wire import EnvelopeKey, ServiceAssignment, VersionKey
from cluster.system import SystemEntropy
from tests.simulation.naive_manager import NODE_ID, History, NaiveManager, service, value_of
from tests.simulation.running_agent import enrol, running, until
from tests.simulation.served_manager import ServedManager, served
from tests.support.attacker import RawSession, hello
from tests.support.authority import ClusterAuthority
from tests.support.mounts import mounts_taken_away, reachable_directory
from tests.support.running import Credential, RunningCluster, running_cluster

pytestmark = [pytest.mark.needs_root, pytest.mark.threat("T-32")]

CANARY = b"canary-in-the-session-77c1"

# --- who reads -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    with running_cluster(agents=1) as cluster:
        cluster.create_secret("read-along", CANARY)
        cluster.create_service("red", 20_001, "read-along")
        yield cluster


@pytest.fixture(scope="module")
def node(cluster: RunningCluster) -> Credential:
    return Credential.of_node(cluster.agents[0].data_dir)


def test_reader_of_the_session_sees_no_value(cluster: RunningCluster, node: Credential) -> None:
    """The whole of what TLS protects, as its end reads it."""
    session = RawSession(cluster.managers[0], node)
    session.hello()
    messages: list[wire.FromManager] = []
    while not (messages and isinstance(messages[-1], wire.Snapshot)):
        message = session.receive()
        assert message is not None
        messages.append(message)
    session.close()
    stream = b"".join(map(wire.encode, messages))
    assert b"read-along" in stream  # the way of looking works: the manifest names it
    assert CANARY not in stream
    assert list(session.values_in(messages).values()) == [CANARY]


def test_session_without_an_envelope_key_is_refused(
    cluster: RunningCluster, node: Credential
) -> None:
    for keys in ((), (EnvelopeKey("plain", b""),), (EnvelopeKey("x25519", b"short"),)):
        session = RawSession(cluster.managers[0], node)
        session.send(hello(envelope_keys=keys))
        (refusal,) = session.rest()
        assert isinstance(refusal, wire.Refusal)
        assert refusal.code == "invalid_request"
        assert "envelope key" in refusal.message


# --- who replays ---------------------------------------------------------------------------------

Bend = Callable[["Replaying", int, wire.Values], wire.Values]


@dataclass
class Replaying(NaiveManager):
    """A manager whose Values somebody exchanges on their way."""

    name: str
    history: History
    bend: Bend
    offered: dict[int, tuple[EnvelopeKey, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.name, self.history)

    def receive(self, link: int, message: wire.FromAgent) -> list[wire.FromManager]:
        if isinstance(message, wire.Hello):
            self.offered[link] = message.envelope_keys
        return super().receive(link, message)

    def _values(self, link: int, services: tuple[ServiceAssignment, ...]) -> wire.Values:
        return self.bend(self, link, super()._values(link, services))

    def sealed_elsewhere(self, link: int, node_id: str, session_id: str) -> wire.Values:
        """Return both values as another node, or another session, was sent them."""
        keys = (VersionKey("a", 1), VersionKey("b", 1))
        recipient = Recipient.choose(self.offered[link], node_id, session_id)
        return recipient.seal([(k, SecretBytes(value_of(k))) for k in keys], SystemEntropy())


def exchanged_slots(_manager: Replaying, _link: int, message: wire.Values) -> wire.Values:
    first, second = message.values
    swapped = (
        msgspec.structs.replace(first, sealed=second.sealed),
        msgspec.structs.replace(second, sealed=first.sealed),
    )
    return msgspec.structs.replace(message, values=swapped)


def renamed(_manager: Replaying, _link: int, message: wire.Values) -> wire.Values:
    """Each value under the name of the other, in the place it was sealed for."""
    first, second = message.values
    swapped = (
        msgspec.structs.replace(second, sealed=first.sealed),
        msgspec.structs.replace(first, sealed=second.sealed),
    )
    return msgspec.structs.replace(message, values=swapped)


def of_another_node(manager: Replaying, link: int, _message: wire.Values) -> wire.Values:
    return manager.sealed_elsewhere(link, "node2", f"s{link}")


def of_another_session(manager: Replaying, link: int, _message: wire.Values) -> wire.Values:
    return manager.sealed_elsewhere(link, NODE_ID, f"s{link + 1}")


def sealed_anew(manager: Replaying, link: int, _message: wire.Values) -> wire.Values:
    """The control: the same way of sealing, for this node and session."""
    return manager.sealed_elsewhere(link, NODE_ID, f"s{link}")


@pytest.fixture
def config(tmp_path: Path) -> Iterator[AgentConfig]:
    with reachable_directory() as run_dir, mounts_taken_away(run_dir):
        yield AgentConfig(data_dir=tmp_path / "data", run_dir=run_dir)


@pytest.fixture
async def manager() -> AsyncIterator[ServedManager]:
    history = History()
    history.commit({"id-red": service("red", ("a", 1), ("b", 1), uid=61_001)})
    made = ServedManager("m1", history, ClusterAuthority())
    made.core = Replaying("m1", history, sealed_anew)
    async with served(made) as running:
        yield running


@pytest.mark.parametrize(
    "bend", [exchanged_slots, renamed, of_another_node, of_another_session, sealed_anew]
)
async def test_value_that_was_recorded_elsewhere_is_mounted_nowhere(
    config: AgentConfig, manager: ServedManager, bend: Bend
) -> None:
    assert isinstance(manager.core, Replaying)
    manager.core.bend = bend
    enrol(config, manager)
    async with running(config):
        await until(lambda: bool(manager.core.acks))
        (result,) = manager.core.acks[0].services
        path = config.mount_root / "red"
        if bend is sealed_anew:
            assert (result.error, len(result.mounted)) == ("", 2)
            assert (path / "a").read_bytes() == value_of(VersionKey("a", 1))
            return
        assert "not sealed for this node" in result.error
        assert result.mounted == ()
        assert not (path / "a").exists()
