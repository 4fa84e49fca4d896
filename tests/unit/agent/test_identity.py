"""The data directory, joining and coming back, against a manager on real TLS."""

import asyncio
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.identity import DataDirectory
from agent.joining import come_back, join
from cluster.pki.join_token import JoinToken
from cluster.protocol.errors import (
    AlreadyExists,
    IntegrityError,
    InvalidRequest,
    PermissionDenied,
    Unavailable,
)
from cluster.protocol.identity import Kind
from cluster.protocol.wire import RevisionPair
from tests.simulation.naive_manager import History
from tests.simulation.served_manager import ServedManager, served
from tests.support.authority import ClusterAuthority
from tests.support.entropy import SeededEntropy


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    return DataDirectory(tmp_path / "data")


@pytest.fixture
async def manager() -> AsyncIterator[ServedManager]:
    async with served(ServedManager("m1", History(), ClusterAuthority())) as running:
        yield running


def token_of(manager: ServedManager, entropy: SeededEntropy) -> JoinToken:
    return JoinToken.new(manager.authority.bundle().root_digest(), entropy)


async def test_join_gives_the_node_an_identity(
    manager: ServedManager, data: DataDirectory, entropy: SeededEntropy
) -> None:
    token = token_of(manager, entropy)
    identity = await asyncio.to_thread(join, [manager.join_address], token, "node-one", data)
    assert str(identity.id) == "spiffe://lab.test/node/node1"
    assert data.fetch_identity().chain == identity.chain
    (asked,) = manager.joins
    assert asked["token"] == token.format()
    assert asked["name"] == "node-one"


async def test_joining_again_changes_nothing(
    manager: ServedManager, data: DataDirectory, entropy: SeededEntropy
) -> None:
    token = token_of(manager, entropy)
    first = await asyncio.to_thread(join, [manager.join_address], token, "node-one", data)
    again = await asyncio.to_thread(join, [manager.join_address], token, "node-one", data)
    assert again.chain == first.chain
    assert len(manager.joins) == 1


async def test_lost_answer_is_asked_for_with_the_same_request(
    manager: ServedManager, data: DataDirectory, entropy: SeededEntropy
) -> None:
    data.prepare()
    before = data.pending_request()
    token = token_of(manager, entropy)
    await asyncio.to_thread(join, [manager.join_address], token, "node-one", data)
    assert DataDirectory(data.path).fetch_identity().key.private_numbers() == (
        before.key.private_numbers()
    )


async def test_token_of_another_cluster_is_not_sent(
    manager: ServedManager, data: DataDirectory, entropy: SeededEntropy
) -> None:
    """The pinned digest is looked at before the token's secret leaves."""
    token = JoinToken.new("00" * 32, entropy)
    with pytest.raises(PermissionDenied, match="root certificate"):
        await asyncio.to_thread(join, [manager.join_address], token, "node-one", data)
    assert manager.joins == []


async def test_node_posing_as_a_manager_is_not_sent_the_token(
    data: DataDirectory, entropy: SeededEntropy
) -> None:
    manager = ServedManager("m1", History(), ClusterAuthority())
    impostor = manager.authority.forge(["spiffe://lab.test/node/n2"])
    async with served(manager, impostor):
        token = token_of(manager, entropy)
        with pytest.raises(PermissionDenied, match="not a manager"):
            await asyncio.to_thread(join, [manager.join_address], token, "node-one", data)
    assert manager.joins == []


async def test_node_of_another_cluster_is_not_taken_over(
    manager: ServedManager, data: DataDirectory, entropy: SeededEntropy
) -> None:
    other = ServedManager("m1", History(), ClusterAuthority("other.test"))
    data.prepare()
    data.save_identity(other.identity())
    token = token_of(manager, entropy)
    with pytest.raises(AlreadyExists, match=r"other\.test"):
        await asyncio.to_thread(join, [manager.join_address], token, "node-one", data)


async def test_return_is_asked_for_by_the_old_key(
    manager: ServedManager, data: DataDirectory
) -> None:
    data.prepare()
    old = manager.identity()
    renewed = await asyncio.to_thread(come_back, old, data)
    assert renewed.id == old.id
    assert renewed.key.private_numbers() != old.key.private_numbers()
    assert data.fetch_identity().chain == renewed.chain


async def test_no_manager_at_all_is_said_so(data: DataDirectory, entropy: SeededEntropy) -> None:
    token = JoinToken.new("00" * 32, entropy)
    with pytest.raises(Unavailable):
        await asyncio.to_thread(join, ["127.0.0.1:1"], token, "node-one", data)


async def test_certificate_for_another_key_or_node_or_cluster_is_refused(
    manager: ServedManager, data: DataDirectory
) -> None:
    identity, other = manager.identity(), manager.identity()
    foreign = ServedManager("m1", History(), ClusterAuthority())
    posing = manager.authority.issue(Kind.NODE, "another")
    data.prepare()
    request = data.pending_request()
    bundle = identity.bundle
    renewed = identity.with_certificate(request.key, manager.issue(request.csr), bundle)
    assert renewed.id == identity.id
    with pytest.raises(PermissionDenied, match="this node's key"):
        identity.with_certificate(request.key, other.chain, bundle)
    with pytest.raises(PermissionDenied, match="not from this cluster"):
        identity.with_certificate(request.key, foreign.issue(request.csr), bundle)
    with pytest.raises(PermissionDenied, match="root"):
        identity.with_certificate(
            request.key, foreign.issue(request.csr), foreign.authority.bundle()
        )
    with pytest.raises(PermissionDenied, match="this node's key"):
        identity.with_certificate(request.key, (posing.der,), bundle)


def test_state_survives_a_restart(data: DataDirectory) -> None:
    data.prepare()
    assert data.load_highest() is None
    data.save_highest(RevisionPair(3, "life", 17))
    request = data.pending_request()
    again = DataDirectory(data.path)
    assert again.load_highest() == RevisionPair(3, "life", 17)
    assert again.pending_request().csr == request.csr
    again.settle_request()
    assert again.pending_request().csr != request.csr


def test_only_the_agent_may_look_into_its_directory(data: DataDirectory) -> None:
    data.prepare()
    data.pending_request()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data.path.iterdir()}
    assert modes == {"pending-request.json": 0o600}
    data.path.chmod(0o750)
    with pytest.raises(InvalidRequest, match="0700"):
        data.prepare()


def test_damaged_state_is_never_guessed_at(data: DataDirectory) -> None:
    data.prepare()
    (data.path / "highest-revision.json").write_bytes(b'[3,"life"')
    with pytest.raises(IntegrityError):
        data.load_highest()


async def test_key_shows_in_no_repr(manager: ServedManager) -> None:
    identity = manager.identity()
    secret = str(identity.key.private_numbers().private_value)
    assert secret not in repr(identity)
    assert "PRIVATE KEY" not in repr(replace(identity, name="x"))
