"""What a node is assigned: the pure half of the dispatcher.

Computes, from the records alone, every file a node must hold, and the difference to what it was
sent. It is the one place where least privilege is decided: a secret version reaches a node only
through a running task of a service that refers to it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from cluster.dispatcher.health import health_assigned
from cluster.protocol.ids import NodeId, SecretId, ServiceId, VersionNumber
from cluster.protocol.wire import FileSpec, ServiceAssignment, VersionKey
from cluster.store.records import (
    HeldSpec,
    LeaseLoss,
    SecretReference,
    ServiceRecord,
    TaskRecord,
    TaskState,
    VersionedRecord,
    VersionState,
)

_ISSUED: Final = frozenset({VersionState.PRIMARY, VersionState.ACTIVE})


class Records(Protocol):
    """The records an assignment is computed from."""

    def tasks_of_node(self, node_id: NodeId) -> Iterable[TaskRecord]:
        """Return every task on a node, whatever its state."""
        ...

    def service(self, service_id: ServiceId) -> ServiceRecord | None:
        """Return a service."""
        ...

    def secret(self, secret_id: SecretId) -> VersionedRecord | None:
        """Return the metadata of a secret or a config."""
        ...

    def held_spec(self, task: TaskRecord) -> HeldSpec | None:
        """Return the spec an open rollout keeps for a task; None: its service's."""
        ...

    def held_version(self, task: TaskRecord, secret_id: SecretId) -> VersionNumber | None:
        """Return the version an open rollout keeps for a task; None: the primary."""
        ...


Assignments = Mapping[str, ServiceAssignment]
"""Service id -> all that a node must know of it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What must be sent to bring a node from one set of assignments to another."""

    changed: tuple[ServiceAssignment, ...]
    removed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.changed or self.removed)


def resolve(secret: VersionedRecord, wanted: VersionNumber | None) -> VersionNumber | None:
    """Return the version number a reference means now, or None if that version cannot be issued."""
    if wanted is None:
        return secret.primary.number
    for version in secret.versions:
        if version.number == wanted and version.state in _ISSUED:
            return version.number
    return None


def assignments_of(records: Records, node_id: NodeId) -> dict[str, ServiceAssignment]:
    """Return what the node must hold, by service id.

    A reference whose secret or version is gone yields no file: the records refuse to let that
    happen, and nothing is invented if they fail.
    """
    assigned: dict[str, ServiceAssignment] = {}
    for task in records.tasks_of_node(node_id):
        service = records.service(task.service_id) if task.state is TaskState.RUNNING else None
        if service is not None:
            assigned[service.id] = _assignment(records, task, service)
    return assigned


def _assignment(records: Records, task: TaskRecord, service: ServiceRecord) -> ServiceAssignment:
    held = records.held_spec(task)
    spec = held.spec if held is not None else service.spec
    files = [file for reference in spec.references for file in _files(records, task, reference)]
    on_change = spec.on_change
    return ServiceAssignment(
        service_id=service.id,
        name=service.name,
        uid=spec.uid,
        gid=spec.gid,
        spec_number=held.number if held is not None else service.spec_number,
        files=tuple(sorted(files, key=lambda file: file.target)),
        on_change_signal=on_change.signal if on_change else "",
        on_change_command=on_change.command if on_change else (),
        on_change_timeout_s=on_change.timeout_s if on_change else 10.0,
        health=health_assigned(spec.health),
        certificate=spec.certificate,
        logs=spec.logs,
    )


def _files(records: Records, task: TaskRecord, reference: SecretReference) -> Iterable[FileSpec]:
    secret = records.secret(reference.secret_id)
    if secret is None:
        return
    wanted = reference.version
    if wanted is None:
        # Never the primary while an open rollout has not released it to this task.
        wanted = records.held_version(task, reference.secret_id)
    version = resolve(secret, wanted)
    if version is None:
        return
    yield _file(reference, secret, reference.target, version)
    previous = _before(secret, version) if reference.previous else None
    if previous is not None:
        yield _file(reference, secret, reference.targets[-1], previous)


def _before(secret: VersionedRecord, number: VersionNumber) -> VersionNumber | None:
    """Return the version before the one in a task's file, as long as it is active."""
    version = next(one for one in secret.versions if one.number == number)
    before = secret.before(version)
    return before.number if before is not None and before.state is VersionState.ACTIVE else None


def _file(
    reference: SecretReference, secret: VersionedRecord, target: str, version: VersionNumber
) -> FileSpec:
    return FileSpec(
        target=target,
        secret_id=secret.id,
        name=secret.name,
        version=version,
        uid=reference.uid,
        gid=reference.gid,
        mode=reference.mode,
        wipe_on_lease_loss=reference.on_lease_loss is LeaseLoss.WIPE,
        lease_s=reference.lease_s,
        config=reference.config,
    )


def difference(sent: Assignments, desired: Assignments) -> Difference:
    """Return what changed from `sent` to `desired`."""
    changed = tuple(new for key, new in sorted(desired.items()) if sent.get(key) != new)
    return Difference(changed, tuple(sorted(sent.keys() - desired.keys())))


def versions_of(assignment: ServiceAssignment) -> frozenset[VersionKey]:
    """Return the secret versions an assignment needs."""
    return frozenset(VersionKey(file.secret_id, file.version) for file in assignment.files)
