"""Receipts: no value leaves a manager before a quorum holds the record of who gets it.

A receipt's transaction compares the generations of everything it was decided from (the node, the
task, the service, the secret), so a manager whose view lags cannot issue after a removal: the
compare fails and it decides again. An agent's ack completes the receipt (`receipt_changes`); what
an agent dropped is marked, not deleted, because `exposure` answers from these records. What many
nodes need at the same moment goes into one write (`together`); each node has its own entry in the
audit and its own outcome.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog

from cluster.dispatcher.assignments import Assignments
from cluster.dispatcher.health import with_health
from cluster.dispatcher.receipt_changes import ERROR_LENGTH, Reported, after_ack, after_drop
from cluster.dispatcher.together import Together
from cluster.protocol.errors import (
    AlreadyExists,
    Conflict,
    PermissionDenied,
    StaleVersion,
    TransactionTooLarge,
    Unavailable,
)
from cluster.protocol.ids import ManagerId, NodeId, SecretId, ServiceId, VersionNumber
from cluster.protocol.wire import Ack, RevisionPair, ServiceAssignment, ServiceResult
from cluster.store.records import (
    AuditEntry,
    ConfigRecord,
    Kind,
    MountedVersion,
    ReceiptRecord,
    Record,
    TaskStatusRecord,
    VersionedRecord,
    receipt_id,
    task_id,
)
from cluster.store.sealed_store import (
    UPDATE_ATTEMPTS,
    Create,
    Replace,
    Require,
    SealedStore,
    Share,
    Step,
    Write,
)
from cluster.store.view import Stored, View
from cluster.system import Clock

log = structlog.get_logger(__name__)

CHANGES_PER_WRITE: Final = 40
STEPS_PER_WRITE: Final = 2 * CHANGES_PER_WRITE
"""An ack of a node with many services is written in pieces, each well under an engine's transaction
limit; so are the acks of many nodes."""
REQUIRED_PER_WRITE: Final = 110
"""Records that one write of receipts compares or creates, within the engine's limit."""
KEYS_PER_WRITE: Final = (REQUIRED_PER_WRITE - 3) // 2
"""Receipts of one task in a write: each rests on its secret, all on node, service and task."""
ATTEMPTS_TOGETHER: Final = 3
"""Attempts of a write for many nodes: one of them whose records keep changing holds up no other."""
APART: Final = (TransactionTooLarge, StaleVersion, AlreadyExists)
"""What the records of one node may bring upon a write for many."""

Key = tuple[SecretId, VersionNumber]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Receipts that a node needs for one service, as many as one write takes."""

    node_id: NodeId
    service_id: ServiceId
    keys: tuple[Key, ...]

    @property
    def touches(self) -> frozenset[str]:
        """Something for each record that they rest on or are."""
        task = f"{self.service_id}.{self.node_id}"
        secrets = (secret_id for secret_id, _ in self.keys)
        receipts = (f"{task}/{secret_id}/{version}" for secret_id, version in self.keys)
        return frozenset((self.node_id, self.service_id, task, *secrets, *receipts))


@dataclass(slots=True)
class Receipts:
    """Writes and completes receipts for one manager."""

    store: SealedStore
    clock: Clock
    manager_id: ManagerId
    _wanted: Together[_Wanted] = field(init=False)
    _reported: Together[Reported] = field(init=False)

    def __post_init__(self) -> None:
        self._wanted = Together(self._issue_all, REQUIRED_PER_WRITE, APART)
        self._reported = Together(self._complete_all, STEPS_PER_WRITE, APART)

    def missing(self, node_id: NodeId, assignments: Iterable[ServiceAssignment]) -> bool:
        """Return whether a version in `assignments` has no open receipt for this node."""
        view = self.store.view
        return any(_unissued(view, node_id, assignment) for assignment in assignments)

    async def ensure(self, node_id: NodeId, assignments: Iterable[ServiceAssignment]) -> None:
        """Commit a receipt for every version in `assignments` that has none.

        Raises PermissionDenied if the node may not have one of them any more; the caller computes
        the assignments again.
        """
        for assignment in assignments:
            for wanted in _pieces(self.store.view, node_id, assignment):
                await self._wanted.do(wanted, (node_id, wanted.service_id), wanted.touches)

    async def _issue_all(self, wanted: Sequence[_Wanted]) -> Sequence[Exception | None]:
        outcomes: list[Exception | None] = []

        def decide(view: View) -> Write | None:
            outcomes[:] = [None] * len(wanted)
            required: dict[tuple[Kind, str], Step] = {}
            shares: list[Share] = []
            for number, one in enumerate(wanted):
                try:
                    found = self._issue(view, one)
                except PermissionDenied as denied:
                    outcomes[number] = denied
                    continue
                if found is not None:
                    for stored in found.rests_on:
                        key = (stored.record.kind, stored.record.id)
                        required.setdefault(key, Require(stored))
                    shares.append(found.share)
            return Write((*required.values(),), shares=tuple(shares)) if shares else None

        await self.store.update(decide, _attempts(wanted))
        return outcomes

    def _issue(self, view: View, wanted: _Wanted) -> "_Issue | None":
        # What else has no receipt by now was not reckoned with when the portion was made up: it is
        # asked for again.
        node_id, service_id = wanted.node_id, wanted.service_id
        keys = _without_receipt(view, node_id, service_id, wanted.keys)
        if not keys:
            return None
        node = view.nodes.get(node_id)
        task = view.tasks.get(task_id(service_id, node_id))
        service = view.services.get(service_id)
        if node is None or node.record.revoked_at is not None or task is None or service is None:
            raise PermissionDenied
        now = self.clock.now().timestamp()
        rests_on: list[Stored[Record]] = [node, task, service]
        sources: dict[SecretId, VersionedRecord] = {}
        for secret_id in sorted({secret_id for secret_id, _ in keys}):
            secret = view.source(secret_id)
            if secret is None:
                raise PermissionDenied
            sources[secret_id] = secret.record
            rests_on.append(secret)
        receipts: list[Step] = []
        for secret_id, version in keys:
            before = view.receipts.get(receipt_id(secret_id, version, node_id, service_id))
            receipt = ReceiptRecord(
                id=receipt_id(secret_id, version, node_id, service_id),
                secret_id=secret_id,
                version=version,
                node_id=node_id,
                service_id=service_id,
                issued_at=now,
                issued_by=self.manager_id,
                first_issued_at=None if before is None else before.record.since,
                secret_name=sources[secret_id].name,
                node_name=node.record.name,
                service_name=service.record.name,
                config=isinstance(sources[secret_id], ConfigRecord),
            )
            receipts.append(Create(receipt) if before is None else Replace(before, receipt))
        audit = AuditEntry(
            at=now,
            caller=f"node/{node_id}",
            action="secret.issue",
            resource=f"service/{service.record.name}",
            allowed=True,
            detail=" ".join(f"{secret_id}/{version}" for secret_id, version in keys),
        )
        return _Issue(rests_on, Share(tuple(receipts), audit))

    async def acknowledge(
        self, node_id: NodeId, ack: Ack, sent: Assignments, last: RevisionPair | None = None
    ) -> None:
        """Complete the receipts an agent acked, and mark those of what it does not hold.

        `sent`: all that the session has told the node to have, `last`: in which manifest; no other
        may be decided while this runs. Only receipts and tasks of this node are touched, and only
        versions with a receipt count: an agent cannot ack what it never got.
        """
        # By service: the last report of one stands, so that a write touches each record once.
        results = {result.service_id: result for result in ack.services}
        reported = Reported(
            node_id,
            results,
            frozenset(ack.dropped),
            sent if last is not None else None,
            last.number if last is not None and ack.revision == last else None,
        )
        await self._reported.do(reported, node_id, reported.touches)
        for service_id, result in results.items():
            if result.error and service_id in sent:
                log.warning(
                    "agent.refused",
                    node_id=node_id,
                    service_id=service_id,
                    error=result.error[:ERROR_LENGTH],
                )

    async def _complete_all(self, reported: Sequence[Reported]) -> Sequence[Exception | None]:
        left = list(reported)
        complete = 0

        def decide(view: View) -> Write | None:
            nonlocal complete
            complete = 0
            steps: list[Step] = []
            for one in left:
                for change in self._changes(view, one):
                    if len(steps) >= STEPS_PER_WRITE:
                        return Write(tuple(steps))
                    steps += change
                complete += 1
            return Write(tuple(steps)) if steps else None

        while left:
            await self.store.update(decide, _attempts(left))
            # Of one that is not complete, the next write finds what is left to change.
            left = left[complete:]
        return [None] * len(reported)

    def _changes(self, view: View, one: Reported) -> Iterable[tuple[Step, ...]]:
        # The task's status comes last: a rollout that reads "done" finds its receipts complete.
        now = self.clock.now().timestamp()
        for stored in _concerned(view, one):
            change = after_ack(stored, one, now)
            if change != stored.record:
                yield (Replace(stored, change),)
        for result in one.results.values():
            yield from self._status(view, one.node_id, result)

    async def wiped(self, node_id: NodeId) -> None:
        """Mark every receipt of a node as dropped: its agent reported that it wiped everything.

        What cannot be written now stays marked as held, which is the safe side.
        """

        def decide(view: View) -> Write | None:
            now = self.clock.now().timestamp()
            held = (one for one in view.receipts_of_node(node_id) if _open(one))
            steps = tuple(Replace(one, after_drop(one.record, now)) for one in held)
            return Write(steps=steps[:CHANGES_PER_WRITE]) if steps else None

        try:
            while any(_open(one) for one in self.store.view.receipts_of_node(node_id)):
                await self.store.update(decide)
        except (Unavailable, Conflict) as error:
            log.warning("receipts.wipe_not_recorded", node_id=node_id, code=error.code)

    def _status(
        self, view: View, node_id: NodeId, result: ServiceResult
    ) -> Iterable[tuple[Step, ...]]:
        service_id = ServiceId(result.service_id)
        task = view.tasks.get(task_id(service_id, node_id))
        service = view.services.get(service_id)
        if task is None or service is None:
            return
        stored = view.task_statuses.get(task.record.id)
        before = stored.record if stored else None
        since = {(m.secret_id, m.version): m.since for m in before.mounted} if before else {}
        now = self.clock.now().timestamp()
        claimed = {(key.secret_id, key.version) for key in result.mounted}
        issued = (one.record for one in view.receipts_of_task(service_id, node_id))
        held = sorted(
            (r.secret_id, r.version) for r in issued if (r.secret_id, r.version) in claimed
        )
        status = TaskStatusRecord(
            id=task.record.id,
            spec_number=min(result.spec_number, service.record.spec_number),
            mounted=tuple(MountedVersion(*key, since.get(key, now)) for key in held),
            error=result.error[:ERROR_LENGTH],
            at=now,
        )
        status = with_health(status, before)
        if before is None or msgspec.structs.replace(status, at=before.at) != before:
            # A task that is removed meanwhile gets no status that would outlive it.
            write = Create(status) if stored is None else Replace(stored, status)
            yield Require(task), write


@dataclass(frozen=True, slots=True)
class _Issue:
    """What one node's part of a write is made of."""

    rests_on: list[Stored[Record]]
    share: Share


def _concerned(view: View, one: Reported) -> Iterator[Stored[ReceiptRecord]]:
    """Yield the receipts that an ack may change: of the services it names, and what waits."""
    named = [*(i for i in one.results if i not in one.dropped), *one.dropped]
    for service_id in named:
        yield from view.receipts_of_task(ServiceId(service_id), one.node_id)
    if one.answers is not None:
        for stored in view.receipts_waiting(one.node_id):
            if stored.record.service_id not in named:
                yield stored


def _unissued(view: View, node_id: NodeId, assignment: ServiceAssignment) -> list[Key]:
    """Return the versions of an assignment without an open receipt, in order."""
    keys = {(SecretId(file.secret_id), VersionNumber(file.version)) for file in assignment.files}
    return _without_receipt(view, node_id, ServiceId(assignment.service_id), sorted(keys))


def _without_receipt(
    view: View, node_id: NodeId, service_id: ServiceId, keys: Iterable[Key]
) -> list[Key]:
    """Return those without an open receipt. A dropped one counts as none: what comes back is issued
    anew."""
    return [
        key for key in keys if not _open(view.receipts.get(receipt_id(*key, node_id, service_id)))
    ]


def _pieces(view: View, node_id: NodeId, assignment: ServiceAssignment) -> Iterator[_Wanted]:
    """Yield what an assignment lacks in pieces that one write takes each."""
    keys = _unissued(view, node_id, assignment)
    for start in range(0, len(keys), KEYS_PER_WRITE):
        piece = tuple(keys[start : start + KEYS_PER_WRITE])
        yield _Wanted(node_id, ServiceId(assignment.service_id), piece)


def _attempts(portion: Sequence[object]) -> int:
    return UPDATE_ATTEMPTS if len(portion) == 1 else ATTEMPTS_TOGETHER


def _open(stored: Stored[ReceiptRecord] | None) -> bool:
    return stored is not None and stored.record.dropped_at is None
