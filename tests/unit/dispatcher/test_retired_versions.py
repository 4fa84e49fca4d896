"""What a node can still get of a version that was replaced."""

import pytest

from cluster.control.service_draft import ReferenceDraft
from cluster.control.version_terms import VersionTerms
from cluster.protocol.errors import PermissionDenied, VersionNotFound
from cluster.protocol.ids import NodeId, SecretId, VersionNumber
from cluster.protocol.secret_bytes import SecretBytes
from tests.unit.control.lab import drafted
from tests.unit.dispatcher.lab import DispatchLab
from tests.unit.dispatcher.test_issue import issue

WHERE = {"constraints": ("node.name==node-of-red",)}


async def rotated(lab: DispatchLab) -> tuple[NodeId, SecretId]:
    """Return a node whose service asked for both versions, in the middle of an overlap."""
    node_id = await lab.running("db")
    both = (ReferenceDraft("db", previous=True),)
    await lab.services.update(lab.context(), "red", drafted("red", references=both, **WHERE))
    terms = VersionTerms(overlap_s=60)
    await lab.secrets.rotate(lab.context(), "db", SecretBytes(b"new"), terms)
    await lab.settle(lab.duty())
    stored = lab.view.secret_by_name("db")
    assert stored is not None
    return node_id, SecretId(stored.record.id)


@pytest.mark.threat("T-39")
async def test_a_version_is_issued_until_it_is_retired_and_not_after(lab: DispatchLab) -> None:
    """Asked for again by a node that had it; its value is still in the store."""
    node_id, secret_id = await rotated(lab)
    assert await issue(lab, node_id, "red", "db.previous") == (1, b"db")
    lab.clock.advance(60)
    await lab.settle(lab.duty())
    with pytest.raises(PermissionDenied):
        await issue(lab, node_id, "red", "db.previous")
    assert await issue(lab, node_id, "red", "db") == (2, b"new")
    assert lab.store.open_value(secret_id, VersionNumber(1)).reveal() == b"db"


@pytest.mark.threat("T-39")
async def test_a_destroyed_value_is_in_the_store_no_more(lab: DispatchLab) -> None:
    node_id, secret_id = await rotated(lab)
    lab.clock.advance(60)
    await lab.settle(lab.duty())
    assert lab.store.open_value(secret_id, VersionNumber(1)).reveal() == b"db"
    await lab.versions.prune(lab.context(), "db", 0)
    with pytest.raises(VersionNotFound):
        lab.store.open_value(secret_id, VersionNumber(1))
    assert lab.receipt(node_id, "db") is None, "it was never issued here"
