"""What a node is assigned: the pure half of the dispatcher.

Computes, from the records alone, every file a node must hold, and the difference to what it was
sent. It is the one place where least privilege is decided: a secret version reaches a node only
through a running task of a service that refers to it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
MOST_REMEMBERED: Final = 10_000
"""Services of which the last assignment is remembered."""


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


Sources = tuple[tuple[VersionedRecord | None, VersionNumber | None], ...]
"""Of each reference of a task: what it refers to, and the version that is asked for."""


@dataclass(slots=True)
class Assigned:
    """What was computed last for each service: all of its tasks that hold the same are alike.

    The records are compared by identity, so nothing but the very same states of them yields the
    same assignment; they are kept here, so no other can take their place in memory.
    """

    _last: dict[str, tuple[ServiceRecord, HeldSpec | None, Sources, ServiceAssignment]] = field(
        default_factory=dict
    )

    def find(
        self, service: ServiceRecord, held: HeldSpec | None, sources: Sources
    ) -> ServiceAssignment | None:
        """Return the assignment that was computed from these very records."""
        last = self._last.get(service.id)
        if last is None or last[0] is not service or last[1] is not held:
            return None
        same = len(last[2]) == len(sources) and all(
            one[0] is other[0] and one[1] == other[1]
            for one, other in zip(last[2], sources, strict=True)
        )
        return last[3] if same else None

    def put(
        self,
        service: ServiceRecord,
        held: HeldSpec | None,
        sources: Sources,
        assignment: ServiceAssignment,
    ) -> None:
        """Remember an assignment, as many as there are services at most."""
        if len(self._last) >= MOST_REMEMBERED and service.id not in self._last:
            self._last.clear()
        self._last[service.id] = (service, held, sources, assignment)


def assignments_of(
    records: Records, node_id: NodeId, assigned_before: Assigned | None = None
) -> dict[str, ServiceAssignment]:
    """Return what the node must hold, by service id.

    A reference whose secret or version is gone yields no file: the records refuse to let that
    happen, and nothing is invented if they fail. `assigned_before`: spares computing again what
    another node was assigned from the same records.
    """
    known = Assigned() if assigned_before is None else assigned_before
    assigned: dict[str, ServiceAssignment] = {}
    for task in records.tasks_of_node(node_id):
        service = records.service(task.service_id) if task.state is TaskState.RUNNING else None
        if service is not None:
            assigned[service.id] = _assignment(records, task, service, known)
    return assigned


def _assignment(
    records: Records, task: TaskRecord, service: ServiceRecord, known: Assigned
) -> ServiceAssignment:
    held = records.held_spec(task)
    spec = held.spec if held is not None else service.spec
    sources = tuple(_source(records, task, reference) for reference in spec.references)
    found = known.find(service, held, sources)
    if found is None:
        found = _computed(service, held, sources)
        known.put(service, held, sources, found)
    return found


def _source(
    records: Records, task: TaskRecord, reference: SecretReference
) -> tuple[VersionedRecord | None, VersionNumber | None]:
    wanted = reference.version
    if wanted is None:
        # Never the primary while an open rollout has not released it to this task.
        wanted = records.held_version(task, reference.secret_id)
    return records.secret(reference.secret_id), wanted


def _computed(service: ServiceRecord, held: HeldSpec | None, sources: Sources) -> ServiceAssignment:
    spec = held.spec if held is not None else service.spec
    files = [
        file
        for reference, (secret, wanted) in zip(spec.references, sources, strict=True)
        for file in _files(reference, secret, wanted)
    ]
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


def _files(
    reference: SecretReference, secret: VersionedRecord | None, wanted: VersionNumber | None
) -> Iterable[FileSpec]:
    if secret is None:
        return
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
