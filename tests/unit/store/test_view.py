"""The view: names, indexes, changes, poison."""

from collections.abc import Callable

import msgspec
import pytest

from cluster.protocol.errors import IntegrityError
from cluster.protocol.ids import NodeId, SecretId, ServiceId
from cluster.store.records import (
    Kind,
    NameRecord,
    ReceiptRecord,
    Record,
    SecretReference,
    ServiceRecord,
    ServiceSpec,
    TaskRecord,
    TaskState,
    name_id,
    task_id,
)
from cluster.store.view import EVERYTHING, IntegrityFault, Stored, View, ViewChange
from tests.support.stores import node, secret


@pytest.fixture
def view() -> View:
    return View(str.encode)


def put(view: View, *records: Record) -> None:
    for record in records:
        view.put(Stored(record, 1, 1))


def service(service_id: str, *secret_ids: str, previous: tuple[str, ...] = ()) -> ServiceRecord:
    def spec(ids: tuple[str, ...]) -> ServiceSpec:
        return ServiceSpec(
            references=tuple(SecretReference(SecretId(one), one, one) for one in ids)
        )

    return ServiceRecord(
        id=service_id,
        name=service_id,
        spec=spec(secret_ids),
        previous_spec=spec(previous) if previous else None,
        created_at=0.0,
        updated_at=0.0,
    )


def task(service_id: str, node_id: str) -> TaskRecord:
    return TaskRecord(
        id=task_id(ServiceId(service_id), NodeId(node_id)),
        service_id=ServiceId(service_id),
        node_id=NodeId(node_id),
        state=TaskState.RUNNING,
        created_at=0.0,
    )


def receipt(service_id: str, node_id: str) -> ReceiptRecord:
    return ReceiptRecord(
        id=f"s/1/{node_id}/{service_id}",
        secret_id=SecretId("s"),
        version=1,  # type: ignore[arg-type]  # a plain number
        node_id=NodeId(node_id),
        service_id=ServiceId(service_id),
        issued_at=0.0,
        issued_by="m1",  # type: ignore[arg-type]  # a plain id
    )


def ids(stored: tuple[Stored[Record], ...]) -> list[str]:
    return [one.record.id for one in stored]


def test_an_object_is_found_by_its_name_whatever_the_case(view: View) -> None:
    put(
        view,
        secret("s1", 1),
        service("v1"),
        node("n1"),
        NameRecord(id=name_id(Kind.SECRET, "Db"), owner="s1"),
        NameRecord(id=name_id(Kind.SERVICE, "db"), owner="v1"),
        NameRecord(id=name_id(Kind.NODE, "DB"), owner="n1"),
    )
    found = [view.secret_by_name("dB"), view.service_by_name("DB"), view.node_by_name("db")]
    assert [one.record.id for one in found if one is not None] == ["s1", "v1", "n1"]
    assert view.secret_by_name("other") is None


def test_tasks_are_found_by_node_and_by_service(view: View) -> None:
    put(view, task("a", "n1"), task("a", "n2"), task("b", "n1"))
    assert ids(view.tasks_of_node(NodeId("n1"))) == ["a.n1", "b.n1"]
    assert ids(view.tasks_of_service(ServiceId("a"))) == ["a.n1", "a.n2"]
    view.drop(Kind.TASK, "a.n1")
    assert ids(view.tasks_of_node(NodeId("n1"))) == ["b.n1"]
    assert ids(view.tasks_of_service(ServiceId("a"))) == ["a.n2"]
    assert view.tasks_of_node(NodeId("n9")) == ()


def test_receipts_are_found_by_node_and_by_task(view: View) -> None:
    put(view, receipt("a", "n1"), receipt("b", "n1"), receipt("a", "n2"))
    assert ids(view.receipts_of_node(NodeId("n1"))) == ["s/1/n1/a", "s/1/n1/b"]
    assert ids(view.receipts_of_task(ServiceId("a"), NodeId("n2"))) == ["s/1/n2/a"]


def test_a_receipt_waits_until_something_is_reported_of_it(view: View) -> None:
    waiting = [receipt(service_id, "n1") for service_id in ("a", "b", "c")]
    put(view, *waiting, receipt("a", "n2"))
    assert ids(view.receipts_waiting(NodeId("n1"))) == ["s/1/n1/a", "s/1/n1/b", "s/1/n1/c"]
    put(view, msgspec.structs.replace(waiting[0], acked_at=1.0))
    put(view, msgspec.structs.replace(waiting[1], dropped_at=1.0))
    assert ids(view.receipts_waiting(NodeId("n1"))) == ["s/1/n1/c"]


def test_services_are_found_by_the_secrets_of_both_specs(view: View) -> None:
    put(view, service("v1", "s1"), service("v2", "s2", previous=("s1",)), service("v3", "s2"))
    assert ids(view.services_referring_to(SecretId("s1"))) == ["v1", "v2"]
    put(view, service("v2", "s2"))
    assert ids(view.services_referring_to(SecretId("s1"))) == ["v1"]


def test_a_table_iterates_over_ids(view: View) -> None:
    put(view, node("n1"), node("n2"))
    assert list(view.nodes) == ["n1", "n2"]
    assert len(view.nodes) == 2
    assert "n1" in view.nodes
    assert ids(view.nodes.values()) == ["n1", "n2"]


def test_every_kind_but_values_has_a_table(view: View) -> None:
    for kind in Kind:
        if kind is not Kind.SECRET_VALUE:
            assert view.table(kind).kind is kind
        view.check(kind)


def test_a_subscriber_hears_each_revision_once_until_it_leaves(view: View) -> None:
    heard: list[ViewChange] = []
    leave = view.subscribe(heard.append)
    before, after = node("n1"), msgspec.structs.replace(node("n1"), name="b")
    view.reached(5, (view.put(Stored(before, 1, 5)),))
    view.reached(6, (view.put(Stored(after, 2, 6)),))
    leave()
    leave()
    view.reached(7, ())
    assert [change.revision for change in heard] == [5, 6]
    assert heard[1].changed == ((Kind.NODE, "n1", before, after),)


def test_a_poisoned_kind_is_never_served_and_others_are(view: View) -> None:
    faults: list[IntegrityFault] = []
    view = View(str.encode, faults.append)
    put(view, node("n1"), secret("s1", 1), task("a", "n1"))
    view.fault(Kind.NODE, "went back")
    reads: list[Callable[[], object]] = [
        lambda: view.nodes.get("n1"),
        lambda: view.nodes.get("other"),
        view.nodes.values,
        lambda: len(view.nodes),
        lambda: list(view.nodes),
        lambda: "n1" in view.nodes,
        lambda: view.check(Kind.NODE),
    ]
    for read in reads:
        with pytest.raises(IntegrityError, match="'node'"):
            read()
    assert view.secrets.get("s1") is not None
    assert len(view.tasks_of_node(NodeId("n1"))) == 1
    assert view.faults == tuple(faults) == ((Kind.NODE, "went back"),)


def test_a_fault_of_the_whole_store_poisons_every_kind(view: View) -> None:
    view.fault(EVERYTHING, "went back")
    for kind in Kind:
        with pytest.raises(IntegrityError):
            view.check(kind)


def test_a_subscriber_that_meets_poison_does_not_keep_others_from_hearing(view: View) -> None:
    heard: list[ViewChange] = []
    view.subscribe(lambda _change: view.check(Kind.NODE))
    view.subscribe(heard.append)
    view.fault(Kind.NODE, "went back")
    view.reached(3, ())
    assert len(heard) == 1
