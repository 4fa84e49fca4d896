"""Nodes as operators handle them."""

import pytest

from cluster.control.moments import moment
from cluster.protocol.errors import InvalidRequest, NodeNotFound, PermissionDenied
from cluster.protocol.ids import ManagerId, NodeId, SecretId, ServiceId, VersionNumber
from cluster.store.records import Availability, NodeState, ReceiptRecord, receipt_id
from tests.unit.control.lab import AUDITOR, DEPLOYER, MANAGER, ControlLab


async def test_node_shows_its_state_and_strength(lab: ControlLab) -> None:
    node_id = await lab.join("n1", ready=False)
    assert lab.nodes.inspect(AUDITOR, "n1")["state"] == "unknown"
    await lab.state(node_id, NodeState.READY, strength="weak", mounts="given")
    shown = lab.nodes.inspect(AUDITOR, node_id)
    assert (shown["name"], shown["state"], shown["strength"]) == ("n1", "ready", "weak")
    assert [node["name"] for node in lab.nodes.list(AUDITOR).entries] == ["n1"]


async def test_labels_and_availability_change(lab: ControlLab) -> None:
    await lab.join("n1")
    answer = await lab.nodes.update(
        lab.context(), "n1", add_labels={"zone": "a", "x": "1"}, availability=Availability.DRAIN
    )
    assert (answer.body["labels"], answer.body["availability"]) == (
        {"zone": "a", "x": "1"},
        "drain",
    )
    answer = await lab.nodes.update(lab.context(), "n1", add_labels={}, remove_labels=["x"])
    assert (answer.body["labels"], answer.body["availability"]) == ({"zone": "a"}, "drain")
    with pytest.raises(InvalidRequest):
        await lab.nodes.update(lab.context(), "n1", add_labels={"a b": "c"})


async def test_node_shows_what_it_was_handed_and_did_not_report_written(lab: ControlLab) -> None:
    node_id = await lab.join("n1")
    now_s = lab.clock.now().timestamp()
    shown = lab.nodes.inspect(AUDITOR, node_id)
    assert (shown["unacknowledged"], shown["unacknowledged_since"]) == (0, None)
    for service, age_s, acked_at, dropped_at in (
        ("a", 5.0, None, None),
        ("b", 9.0, None, None),
        ("c", 20.0, now_s, None),
        ("d", 30.0, None, now_s),
    ):
        ids = SecretId("s"), VersionNumber(1), NodeId(node_id), ServiceId(service)
        await lab.write(
            ReceiptRecord(
                id=receipt_id(*ids), secret_id=ids[0], version=ids[1], node_id=ids[2],
                service_id=ids[3], issued_at=now_s - age_s, issued_by=ManagerId(MANAGER),
                acked_at=acked_at, dropped_at=dropped_at,
            )
        )  # fmt: skip
    shown = lab.nodes.inspect(AUDITOR, "n1")
    assert (shown["unacknowledged"], shown["unacknowledged_since"]) == (2, moment(now_s - 9.0))


async def test_removed_node_is_gone_from_sight_but_not_forgotten(lab: ControlLab) -> None:
    node_id = await lab.join("n1")
    await lab.service("web")
    await lab.settle(lab.duty())
    await lab.nodes.remove(lab.context(), "n1")
    assert lab.nodes.list(AUDITOR).entries == []
    assert len(lab.view.tasks) == 0
    stored = lab.view.nodes.get(node_id)
    assert stored is not None
    assert stored.record.revoked_at == lab.clock.now().timestamp()
    for name in ("n1", node_id):
        with pytest.raises(NodeNotFound):
            await lab.nodes.remove(lab.context(), name)


async def test_deployers_do_not_see_nodes(lab: ControlLab) -> None:
    with pytest.raises(PermissionDenied):
        lab.nodes.list(DEPLOYER)
