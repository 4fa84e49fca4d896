"""What a delivery says: the manifest, and the ids of the requests that made what is new in it.

The ids are for the node's log, so that one request is found there as it is in the audit. They are
worked out when something is sent, not kept with it: a task that a rollout holds learns of a request
when the change is released to it. What a node was told in this session counts as known, and before
that what it reported last. Pure; nothing may be decided by an id. Source: ADR 0017.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from cluster.dispatcher.assignments import Assignments, Difference
from cluster.protocol.ids import NodeId, SecretId, ServiceId
from cluster.protocol.wire import (
    REQUEST_IDS,
    Delta,
    RevisionPair,
    ServiceAssignment,
    Snapshot,
    VersionKey,
)
from cluster.store.records import task_id
from cluster.store.view import View


@dataclass(frozen=True, slots=True)
class _Known:
    """What a node has of a service."""

    spec_number: int | None = None
    """None: of no spec is it known that it was carried out."""
    versions: frozenset[VersionKey] = frozenset()
    targets: Mapping[str, VersionKey] = field(default_factory=dict)
    """Which version each file has, where that is known."""

    def lacks(self, target: str, key: VersionKey, primary: int) -> bool:
        """Return whether a file is new: its version is, or came back from the file of the one
        before."""
        if key not in self.versions:
            return True
        was = self.targets.get(target, key)
        return was != key and was.secret_id == key.secret_id and key.version == primary


_NOTHING = _Known()


def manifest_of(
    view: View,
    node_id: NodeId,
    revisions: tuple[RevisionPair | None, RevisionPair],
    desired: Assignments,
    plan: Difference,
    sent: Assignments,
) -> Snapshot | Delta:
    """Return what a node is to be told: all of `desired`, or what `plan` says changed since `sent`.

    `revisions`: of what was sent, None where everything is due, and of now.
    """
    base, revision = revisions
    if base is None:
        services = tuple(desired[key] for key in sorted(desired))
        return Snapshot(revision, services, _request_ids(view, node_id, services, {}))
    request_ids = _request_ids(view, node_id, plan.changed, sent)
    return Delta(base, revision, plan.changed, plan.removed, request_ids)


def _request_ids(
    view: View, node_id: NodeId, assignments: Iterable[ServiceAssignment], sent: Assignments
) -> tuple[str, ...]:
    """Return the ids behind what `assignments` bring, each once, as many as a manifest takes."""
    found = dict.fromkeys(
        request_id
        for assignment in assignments
        for request_id in _behind(view, assignment, _known(view, node_id, assignment, sent))
        if request_id
    )
    return tuple(islice(found, REQUEST_IDS))


def _behind(view: View, assignment: ServiceAssignment, known: _Known) -> Iterator[str]:
    service = view.services.get(assignment.service_id)
    number = assignment.spec_number
    # A spec that a rollout still holds is not the one that the record's request made.
    if service is not None and service.record.spec_number == number != known.spec_number:
        yield service.record.request_id
    for file in assignment.files:
        source = view.source(SecretId(file.secret_id))
        if source is None:
            continue
        record, key = source.record, VersionKey(file.secret_id, file.version)
        if known.lacks(file.target, key, record.primary.number):
            yield from (one.request_id for one in record.versions if one.number == file.version)


def _known(view: View, node_id: NodeId, assignment: ServiceAssignment, sent: Assignments) -> _Known:
    before = sent.get(assignment.service_id)
    if before is not None:
        targets = {file.target: VersionKey(file.secret_id, file.version) for file in before.files}
        return _Known(before.spec_number, frozenset(targets.values()), targets)
    task = task_id(ServiceId(assignment.service_id), node_id)
    placed, stored = view.tasks.get(task), view.task_statuses.get(task)
    if placed is None or stored is None or stored.record.at < placed.record.created_at:
        return _NOTHING  # a status may outlive a task that was on the node before
    status = stored.record
    mounted = frozenset(VersionKey(one.secret_id, one.version) for one in status.mounted)
    # What failed is reported under the number of the spec that was asked for.
    return _Known(None if status.error else status.spec_number, mounted)
