"""The view's indexes: which records are found by something else than their id.

Pure: each kind names the terms it is found by, and moving a record moves its terms.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from cluster.store.records import (
    Kind,
    ReceiptRecord,
    Record,
    RotationRecord,
    SecretRecord,
    ServiceRecord,
    TaskRecord,
    VersionState,
)

Term = tuple[str, str]
"""(index, what is asked for)."""

_INDEXED: Final = {Kind.TASK, Kind.RECEIPT, Kind.SERVICE, Kind.ROTATION, Kind.SECRET}


class Indexes:
    """Sets of record ids by term."""

    def __init__(self) -> None:
        self._ids: defaultdict[Term, set[str]] = defaultdict(set)

    def get(self, index: str, term: str) -> frozenset[str]:
        """Return the ids of the records found by a term."""
        return frozenset(self._ids.get((index, term), ()))

    def move(self, before: Record | None, after: Record | None) -> None:
        """Follow one record from its state before to its state after; None: it does not exist."""
        if before is not None:
            for term in terms(before):
                self._ids[term].discard(before.id)
                if not self._ids[term]:
                    del self._ids[term]
        if after is not None:
            for term in terms(after):
                self._ids[term].add(after.id)


def terms(record: Record) -> Iterable[Term]:
    """Return what a record is found by."""
    if record.kind not in _INDEXED:
        return ()
    match record:
        case SecretRecord():
            return _secret_terms(record)
        case TaskRecord():
            return (("task.node", record.node_id), ("task.service", record.service_id))
        case ReceiptRecord():
            return _receipt_terms(record)
        case ServiceRecord():
            specs = filter(None, (record.spec, record.previous_spec))
            secrets = {ref.secret_id for spec in specs for ref in spec.references}
            return tuple(("service.secret", secret_id) for secret_id in secrets)
        case RotationRecord():
            return (("rotation.secret", record.secret_id),)
        case _:
            return ()


def _receipt_terms(receipt: ReceiptRecord) -> Iterable[Term]:
    yield "receipt.node", receipt.node_id
    yield "receipt.task", f"{receipt.service_id}.{receipt.node_id}"
    yield "receipt.secret", receipt.secret_id
    if receipt.acked_at is None and receipt.dropped_at is None:
        yield "receipt.waiting", receipt.node_id


def _secret_terms(secret: SecretRecord) -> Iterable[Term]:
    """Return what the duties find a secret by: of a hundred thousand most ask for nothing."""
    if secret.schedule is not None:
        yield "secret.scheduled", ""
    # An enumeration's members are slow to look up.
    active, primary, retired = VersionState.ACTIVE, VersionState.PRIMARY, VersionState.RETIRED
    kept = 0
    for version in secret.versions:
        ends = version.state is primary and version.expires_at is not None
        if ends or version.state is active:
            yield "secret.passing", ""
            return
        kept += version.state is retired and not version.destroyed
    if kept > secret.keep:
        yield "secret.passing", ""
