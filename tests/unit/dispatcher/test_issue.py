"""Issuing one secret on demand: the rules of a session's push, for a single value."""

import pytest

from cluster.pki.node_envelope import ISSUE, NodeKeys, Recipient, staged
from cluster.protocol.errors import NoQuorum, PermissionDenied
from cluster.protocol.ids import NodeId
from tests.unit.dispatcher.lab import DispatchLab, WatchedEngine


async def issue(lab: DispatchLab, node_id: NodeId, service: str, secret: str) -> tuple[int, bytes]:
    """Ask as the node; return version and value."""
    keys = NodeKeys.generate(node_id)
    recipient = Recipient.choose(keys.public_keys(), node_id, ISSUE)
    issued = await lab.issue.issue(node_id, service, secret, recipient)
    (sealed,) = staged(issued.values, recipient.suite, ISSUE).values()
    with keys.opening() as open_value:
        return issued.version, open_value(sealed).reveal()


async def test_assigned_secret_is_issued_by_name_and_by_target(lab: DispatchLab) -> None:
    node_id = await lab.running("db")
    issued = await issue(lab, node_id, "red", "db")
    assert issued == (1, b"db")
    assert lab.receipt(node_id, "db") is not None


@pytest.mark.threat("T-05")
async def test_not_yours_and_not_there_read_the_same(lab: DispatchLab) -> None:
    node_id = await lab.running("db")
    await lab.running("theirs", service="blue")
    answers = set()
    asked = [("blue", "theirs"), ("red", "theirs"), ("red", "none"), ("none", "db")]
    for service, secret in asked:
        with pytest.raises(PermissionDenied) as refused:
            await issue(lab, node_id, service, secret)
        answers.add((type(refused.value), refused.value.message))
    assert len(answers) == 1
    assert len(lab.view.receipts) == 0


async def test_evicted_node_is_issued_nothing(lab: DispatchLab) -> None:
    node_id = await lab.running("db")
    await lab.evict(node_id)
    with pytest.raises(PermissionDenied):
        await issue(lab, node_id, "red", "db")


@pytest.mark.threat("T-09")
async def test_eviction_before_the_barrier_wins(lab: DispatchLab, engine: WatchedEngine) -> None:
    node_id = await lab.running("db")

    async def evict() -> None:
        engine.before_barrier = None
        await lab.evict(node_id)

    engine.before_barrier = evict
    with pytest.raises(PermissionDenied):
        await issue(lab, node_id, "red", "db")


async def test_rotation_before_the_barrier_is_followed(
    lab: DispatchLab, engine: WatchedEngine
) -> None:
    """It would be refused as if it were not assigned, since the new version has no receipt yet."""
    node_id = await lab.running("db")

    async def rotate() -> None:
        engine.before_barrier = None
        await lab.rotate("db", b"second")

    engine.before_barrier = rotate
    issued = await issue(lab, node_id, "red", "db")
    assert issued == (2, b"second")
    assert lab.receipt(node_id, "db", 2) is not None


@pytest.mark.threat("T-09")
async def test_nothing_is_issued_without_a_quorum(lab: DispatchLab, engine: WatchedEngine) -> None:
    node_id = await lab.running("db")

    async def no_quorum() -> None:
        raise NoQuorum

    engine.before_barrier = no_quorum
    with pytest.raises(NoQuorum):
        await issue(lab, node_id, "red", "db")
