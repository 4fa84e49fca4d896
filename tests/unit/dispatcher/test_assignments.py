"""Which files a reference to both versions yields; the rest is in tests/property."""

from collections.abc import Iterable

import msgspec
import pytest

from cluster.control.versions import first_version, made_primary, rotated, settled
from cluster.dispatcher import assignments
from cluster.dispatcher.assignments import Assigned, assignments_of
from cluster.protocol.ids import NodeId, SecretId, ServiceId, VersionNumber
from cluster.store.records import (
    HeldSpec,
    SecretRecord,
    SecretReference,
    ServiceRecord,
    ServiceSpec,
    TaskRecord,
    TaskState,
    task_id,
)

SERVICE, NODE = ServiceId("web"), NodeId("n1")
BOTH = SecretReference(SecretId("s"), "db", "password", mode=0o400, uid=7, previous=True)


class Records:
    """One service on one node."""

    def __init__(
        self, secret: SecretRecord, *references: SecretReference, held: int | None = None
    ) -> None:
        self._secret = secret
        self._held = held
        self._service = ServiceRecord(
            id=SERVICE,
            name="web",
            spec=ServiceSpec(references=references),
            created_at=0.0,
            updated_at=0.0,
        )

    def tasks_of_node(self, node_id: NodeId) -> Iterable[TaskRecord]:
        yield TaskRecord(
            id=task_id(SERVICE, node_id),
            service_id=SERVICE,
            node_id=node_id,
            state=TaskState.RUNNING,
            created_at=0.0,
        )

    def service(self, service_id: ServiceId) -> ServiceRecord | None:
        return self._service if service_id == SERVICE else None

    def secret(self, secret_id: SecretId) -> SecretRecord | None:
        return self._secret if secret_id == self._secret.id else None

    def held_spec(self, task: TaskRecord) -> HeldSpec | None:
        return None

    def held_version(self, task: TaskRecord, secret_id: SecretId) -> VersionNumber | None:
        return VersionNumber(self._held) if self._held is not None else None


@pytest.fixture
def secret() -> SecretRecord:
    return SecretRecord(
        id="s",
        name="db",
        versions=(first_version(1, 0.0, "test"),),
        next_number=2,
        created_at=0.0,
        updated_at=0.0,
    )


def files(
    secret: SecretRecord, *references: SecretReference, held: int | None = None
) -> dict[str, int]:
    """Return the version in each file; `held`: the one that a rollout holds the task at."""
    assigned = assignments_of(Records(secret, *references, held=held), NODE)[SERVICE]
    return {file.target: file.version for file in assigned.files}


def test_without_a_version_before_there_is_one_file(secret: SecretRecord) -> None:
    assert files(secret, BOTH) == {"password": 1}


def test_an_active_version_before_is_in_the_second_file(secret: SecretRecord) -> None:
    after = rotated(secret, 1, 1.0, "test", overlap_s=10.0)
    assert files(after, BOTH) == {"password": 2, "password.previous": 1}
    plain = msgspec.structs.replace(BOTH, previous=False)
    assert files(after, plain) == {"password": 2}


def test_both_files_have_one_owner_and_mode(secret: SecretRecord) -> None:
    after = rotated(secret, 1, 1.0, "test", overlap_s=10.0)
    assigned = assignments_of(Records(after, BOTH), NODE)[SERVICE]
    assert [(file.uid, file.mode) for file in assigned.files] == [(7, 0o400)] * 2


def test_the_second_file_goes_when_the_version_is_retired(secret: SecretRecord) -> None:
    after = rotated(secret, 1, 1.0, "test", overlap_s=10.0)
    assert files(settled(after, 11.0, ()).record, BOTH) == {"password": 2}


def test_an_older_version_that_is_still_active_does_not_take_its_place(
    secret: SecretRecord,
) -> None:
    """The version before is the one that was primary before, not any that is left."""
    after = rotated(secret, 1, 1.0, "test", overlap_s=100.0)
    after = rotated(after, 1, 2.0, "test", overlap_s=1.0)
    assert files(after, BOTH) == {"password": 3, "password.previous": 2}
    assert files(settled(after, 5.0, ()).record, BOTH) == {"password": 3}


def test_a_version_that_was_rolled_back_from_is_not_handed_out(secret: SecretRecord) -> None:
    after = rotated(secret, 1, 1.0, "test", overlap_s=100.0)
    after = made_primary(after, 1, 2.0, overlap_s=0.0)
    assert files(after, BOTH) == {"password": 1}


def test_a_task_that_is_held_keeps_both_its_files(secret: SecretRecord) -> None:
    """A rollout that has not reached it changes neither of them."""
    before = rotated(secret, 1, 1.0, "test", overlap_s=100.0)
    after = rotated(before, 1, 2.0, "test", overlap_s=100.0)
    assert (
        files(after, BOTH, held=2) == files(before, BOTH) == {"password": 2, "password.previous": 1}
    )
    assert files(after, BOTH) == {"password": 3, "password.previous": 2}


def test_nodes_share_what_was_computed_from_the_same_records(secret: SecretRecord) -> None:
    records, known = Records(secret, BOTH), Assigned()
    first = assignments_of(records, NODE, known)[SERVICE]
    assert assignments_of(records, NodeId("n2"), known)[SERVICE] is first
    assert assignments_of(records, NODE)[SERVICE] == first


def test_nothing_is_shared_once_a_record_or_the_version_held_is_another(
    secret: SecretRecord,
) -> None:
    known = Assigned()

    def version(records: Records) -> int:
        (file, *_) = assignments_of(records, NODE, known)[SERVICE].files
        return file.version

    after = rotated(secret, 1, 1.0, "test")
    records = Records(after, BOTH)
    assert version(records) == 2
    records._secret = secret
    assert version(records) == 1
    records._secret = rotated(after, 1, 2.0, "test", overlap_s=10.0)
    records._held = 2
    assert version(records) == 2
    records._held = None
    assert version(records) == 3
    records._service = msgspec.structs.replace(records._service, spec_number=9)
    assert assignments_of(records, NODE, known)[SERVICE].spec_number == 9


def test_so_many_services_are_remembered_at_most(
    secret: SecretRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assignments, "MOST_REMEMBERED", 2)
    known = Assigned()
    for number in range(5):
        records = Records(secret, BOTH)
        service = msgspec.structs.replace(records._service, id=f"other-{number}")
        known.put(service, None, (), assignments_of(records, NODE)[SERVICE])
    assert len(known._last) <= 2
