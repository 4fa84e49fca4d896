"""Who has, or may have had, what: the answers follow the receipts, and outlive what they name."""

from datetime import timedelta

import pytest

from cluster.control.delivered import held_versions, must_rotate
from cluster.control.exposure import ROWS
from cluster.control.receipt_ages import KEPT_S
from cluster.dispatcher.assignments import assignments_of
from cluster.dispatcher.sessions import ViewRecords
from cluster.protocol import wire
from cluster.protocol.errors import NodeNotFound, PermissionDenied, SecretNotFound
from cluster.protocol.ids import ManagerId, NodeId, SecretId, ServiceId, VersionNumber
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import NodeState, ReceiptRecord, receipt_id
from cluster.store.view import Stored, View
from tests.support.stores import StoreLab
from tests.unit.control.lab import ADMIN, AUDITOR, DEPLOYER, operator
from tests.unit.dispatcher.lab import DispatchLab

PAIR = wire.RevisionPair(1, "first", 1)


@pytest.fixture
async def lab(stores: StoreLab) -> DispatchLab:
    lab = DispatchLab(stores, await stores.open("m1"))
    await lab.initialise()
    return lab


async def deliver(lab: DispatchLab, node_id: NodeId, *, ack: bool = True) -> None:
    """Issue what is assigned to a node, and report it written."""
    assigned = assignments_of(ViewRecords(lab.view), node_id)
    await lab.receipts.ensure(node_id, assigned.values())
    if ack:
        results = tuple(
            wire.ServiceResult(
                one.service_id,
                tuple(wire.VersionKey(file.secret_id, file.version) for file in one.files),
                spec_number=one.spec_number,
            )
            for one in assigned.values()
        )
        await lab.receipts.acknowledge(node_id, wire.Ack(PAIR, results), {})


def rows(answer: object) -> list[dict[str, object]]:
    assert isinstance(answer, dict)
    return list(answer["receipts"])


async def test_where_tells_versions_nodes_and_services(lab: DispatchLab) -> None:
    node_id = await lab.running("db")
    issued_at = lab.clock.now()
    await deliver(lab, node_id, ack=False)
    (row,) = rows(lab.exposure.where(AUDITOR, "db"))
    assert (row["version"], row["version_state"], row["live"]) == (1, "primary", True)
    assert (row["node"], row["node_state"], row["service"]) == ("node-of-red", "ready", "red")
    assert (row["acked_at"], row["held"]) == (None, True)
    lab.clock.advance(60)
    await deliver(lab, node_id)
    await lab.rotate("db", b"second")
    await deliver(lab, node_id)
    answer = lab.exposure.where(AUDITOR, "db")
    second, first = rows(answer)
    assert (second["version"], first["version"]) == (2, 1)
    assert str(first["since"]).startswith(issued_at.isoformat()[:19])
    assert first["acked_at"] is not None
    assert first["dropped_at"] is not None
    assert (first["held"], second["held"]) == (False, True)
    assert answer["versions"] == [
        {
            "version": 2,
            "state": "primary",
            "live": True,
            "issued": 1,
            "acknowledged": 1,
            "held": 1,
        },
        {
            "version": 1,
            "state": first["version_state"],
            "live": first["live"],
            "issued": 1,
            "acknowledged": 1,
            "held": 0,
        },
    ]
    assert [row["version"] for row in rows(lab.exposure.where(AUDITOR, "db", 1))] == [1]


async def test_since_is_the_first_issue_however_often_it_was_dropped(lab: DispatchLab) -> None:
    node_id = await lab.running("db")
    await deliver(lab, node_id)
    (first,) = rows(lab.exposure.where(AUDITOR, "db"))
    (service_id,) = assignments_of(ViewRecords(lab.view), node_id)
    for _ in range(2):
        await lab.receipts.acknowledge(node_id, wire.Ack(PAIR, (), (service_id,)), {})
        lab.clock.advance(60)
        await deliver(lab, node_id)
    (again,) = rows(lab.exposure.where(AUDITOR, "db"))
    assert again["since"] == first["since"]
    assert again["issued_at"] != first["issued_at"]


async def test_exposure_of_a_node_outlives_its_eviction_and_its_record(lab: DispatchLab) -> None:
    node_id = await lab.running("db", "key")
    await deliver(lab, node_id)
    await lab.evict(node_id)
    answer = lab.exposure.of_node(AUDITOR, "node-of-red")
    assert (answer["id"], answer["state"]) == (node_id, "evicted")
    assert answer["evicted_at"] is not None
    assert (answer["versions"], answer["live"], answer["held"]) == (2, 2, 2)
    lab.clock.advance(timedelta(days=30))
    for _ in range(2):
        await lab.settle(lab.duty(), rounds=1)
    assert lab.view.nodes.get(node_id) is None
    for name in ("node-of-red", "NODE-OF-RED", node_id):
        later = lab.exposure.of_node(AUDITOR, name)
        assert (later["id"], later["name"], later["state"]) == (node_id, "node-of-red", "removed")
        assert [row["secret"] for row in rows(later)] == ["db", "key"]


async def test_a_name_that_was_given_again_means_the_present_node(lab: DispatchLab) -> None:
    old = await lab.running("db")
    await deliver(lab, old)
    await lab.evict(old)
    new = await lab.join("node-of-red")
    answer = lab.exposure.of_node(AUDITOR, "node-of-red")
    assert (answer["id"], answer["same_name"], rows(answer)) == (new, [old], [])
    assert len(rows(lab.exposure.of_node(AUDITOR, old))) == 1


async def test_rotated_version_is_no_longer_in_use(lab: DispatchLab) -> None:
    node_id = await lab.running("db")
    await deliver(lab, node_id)
    await lab.evict(node_id)
    for value in (b"second", b"third"):
        await lab.rotate("db", value)
        await lab.settle(lab.duty())
    answer = lab.exposure.of_node(AUDITOR, "node-of-red")
    assert (answer["versions"], answer["live"]) == (1, 0)


async def test_a_removed_secret_is_still_told_of_until_its_age(lab: DispatchLab) -> None:
    node_id = await lab.running("db")
    await deliver(lab, node_id)
    await lab.remove_service("red")
    await lab.receipts.wiped(node_id)
    await lab.secrets.remove(lab.context(), "db")
    answer = lab.exposure.where(AUDITOR, "db")
    assert (answer["removed"], answer["name"]) == (True, "db")
    (row,) = rows(answer)
    assert (row["version_state"], row["live"], row["service_gone"]) == ("removed", False, True)
    assert rows(lab.exposure.where(AUDITOR, str(answer["id"]))) == [row]
    await lab.settle(lab.duty(), rounds=1)
    lab.clock.advance(KEPT_S - 60)
    await lab.settle(lab.duty(), rounds=1)
    assert len(lab.view.receipts) == 1
    lab.clock.advance(60)
    await lab.settle(lab.duty(), rounds=1)
    assert len(lab.view.receipts) == 0
    with pytest.raises(SecretNotFound):
        lab.exposure.where(AUDITOR, "db")


async def test_receipts_of_versions_on_record_are_kept_for_ever(lab: DispatchLab) -> None:
    node_id = await lab.running("db")
    await deliver(lab, node_id)
    await lab.evict(node_id)
    for _ in range(3):
        lab.clock.advance(timedelta(days=400))
        await lab.settle(lab.duty(), rounds=1)
    assert len(lab.view.receipts) == 1


@pytest.mark.threat("T-34")
async def test_a_wipe_that_was_reported_is_recorded(lab: DispatchLab) -> None:
    node_id = await lab.running("db", "key")
    await deliver(lab, node_id)
    await lab.receipts.wiped(node_id)
    answer = lab.exposure.of_node(AUDITOR, "node-of-red")
    assert (answer["held"], answer["versions"]) == (0, 2)
    assert answer["live"] == 2, "what a node reports does not make a version safe"


async def test_states_of_nodes(lab: DispatchLab) -> None:
    node_id = await lab.running("db")
    await deliver(lab, node_id)
    await lab.state(node_id, NodeState.DOWN)
    (row,) = rows(lab.exposure.where(AUDITOR, "db"))
    assert row["node_state"] == "down"
    await lab.evict(node_id)
    (row,) = rows(lab.exposure.where(AUDITOR, "db"))
    assert row["node_state"] == "evicted"


async def test_who_may_ask(lab: DispatchLab) -> None:
    await lab.secret("red-key", team="red")
    await lab.secret("blue-key", team="blue")
    await lab.join("n1")
    for principal in (ADMIN, AUDITOR, DEPLOYER):
        assert lab.exposure.where(principal, "red-key")["receipts"] == []
    for name in ("blue-key", "no-such"):
        with pytest.raises(PermissionDenied):
            lab.exposure.where(DEPLOYER, name)
    with pytest.raises(PermissionDenied):
        lab.exposure.of_node(DEPLOYER, "n1")
    with pytest.raises(SecretNotFound):
        lab.exposure.where(AUDITOR, "no-such")
    with pytest.raises(NodeNotFound):
        lab.exposure.of_node(AUDITOR, "no-such")


async def test_an_answer_never_holds_a_value(lab: DispatchLab) -> None:
    node_id = await lab.join("n1")
    await lab.secrets.create(lab.context(), "db", {}, SecretBytes(b"canary-4711"))
    await lab.service("red", "db")
    await lab.settle(lab.duty())
    await deliver(lab, node_id)
    answers = (lab.exposure.where(ADMIN, "db"), lab.exposure.of_node(ADMIN, "n1"))
    assert all(rows(answer) for answer in answers)
    assert "canary" not in str(answers)


def receipts(secret: str, count: int) -> View:
    view = View(str.encode)
    for number in range(count):
        ids = SecretId(secret), VersionNumber(1 + number % 2), NodeId(f"n{number}"), ServiceId("s")
        record = ReceiptRecord(
            id=receipt_id(*ids),
            secret_id=ids[0],
            version=ids[1],
            node_id=ids[2],
            service_id=ids[3],
            issued_at=0.0,
            issued_by=ManagerId("m1"),
        )
        view.put(Stored(record, 1, 1))
    return view


def test_receipts_are_found_by_their_secret_alone() -> None:
    view = receipts("one", 40)
    assert len(view.receipts_of_secret(SecretId("one"))) == 40
    assert view.receipts_of_secret(SecretId("other")) == ()
    view.drop(next(iter(view.receipts.values())).record.kind, "one/1/n0/s")
    assert len(view.receipts_of_secret(SecretId("one"))) == 39
    assert held_versions(view, NodeId("n3")) == {"one": {2}}


async def test_a_long_answer_keeps_the_newest_and_counts_all(lab: DispatchLab) -> None:
    await lab.secret("db")
    stored = lab.view.secret_by_name("db")
    assert stored is not None
    for one in receipts(stored.record.id, ROWS + 10).receipts.values():
        lab.view.put(one)
    answer = lab.exposure.where(operator("ada", ADMIN.role), "db")
    assert (len(rows(answer)), answer["left_out"]) == (ROWS, 10)
    versions = answer["versions"]
    assert isinstance(versions, list)
    assert sum(row["issued"] for row in versions) == ROWS + 10
    assert sum(row["version"] == 2 for row in rows(answer)) == ROWS // 2 + 5


async def test_nothing_must_be_rotated_before_an_eviction(lab: DispatchLab) -> None:
    await lab.running("db")
    stored = lab.view.secret_by_name("db")
    assert stored is not None
    assert must_rotate(stored.record) == ""
    assert lab.secrets.inspect(AUDITOR, "db")["must_rotate"] == ""
