"""What an ack makes of a receipt. Pure.

An ack says what a node holds now; it says something of what never arrived only if it answers the
last manifest that its session sent. A version that was issued and replaced before it was sent, or
whose ack was lost, would else stay open for ever: no later ack can complete it. So an answer ends
the open receipts that were written before its manifest was decided and that the manifest leaves
out. A receipt that is younger belongs to a delivery that the answer knows nothing of, whichever
manager makes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from cluster.dispatcher.assignments import Assignments, versions_of
from cluster.protocol.ids import NodeId
from cluster.protocol.wire import ServiceResult, VersionKey
from cluster.store.records import ReceiptRecord
from cluster.store.view import Stored

ERROR_LENGTH: Final = 200


@dataclass(frozen=True, slots=True)
class Reported:
    """What an ack says of a node's services."""

    node_id: NodeId
    results: Mapping[str, ServiceResult]
    dropped: frozenset[str]
    sent: Assignments | None = None
    """All that its session has told the node to have; None: it is not known."""
    answers: int | None = None
    """The number of the manifest that it answers, if that is the last one that was sent."""

    @property
    def touches(self) -> frozenset[str]:
        """Something for each record that it may change or rests on."""
        touched = {f"{service_id}.{self.node_id}" for service_id in self.dropped}
        for service_id, result in self.results.items():
            task = f"{service_id}.{self.node_id}"
            touched |= {task, f"{task}/status"}
            touched.update(f"{task}/{key.secret_id}/{key.version}" for key in result.mounted)
        return frozenset(touched)

    def asks_for(self, receipt: ReceiptRecord) -> bool:
        """Return whether the node was told to have a version, or nobody knows."""
        if self.sent is None:
            return True
        assignment = self.sent.get(receipt.service_id)
        return assignment is not None and _key(receipt) in versions_of(assignment)

    def rules_out(self, stored: Stored[ReceiptRecord]) -> bool:
        """Return whether the node cannot hold a version that it neither named nor was told to have.

        Of a service that failed it may hold more than it said; and of one that it passed over, if
        it was told to have it.
        """
        if self.sent is None or self.answers is None or stored.mod_revision > self.answers:
            return False
        result = self.results.get(stored.record.service_id)
        return stored.record.service_id not in self.sent if result is None else not result.error


def is_waiting(receipt: ReceiptRecord) -> bool:
    """Return whether nothing is known yet of a version that was issued."""
    return receipt.acked_at is None and receipt.dropped_at is None


def after_ack(stored: Stored[ReceiptRecord], reported: Reported, now: float) -> ReceiptRecord:
    """Return what becomes of a receipt of the node that reported."""
    receipt = stored.record
    if receipt.service_id in reported.dropped:
        return after_drop(receipt, now)
    result = reported.results.get(receipt.service_id)
    if result is not None and _key(receipt) in result.mounted:
        acked_at = receipt.acked_at if receipt.acked_at is not None else now
        error = result.error[:ERROR_LENGTH]
        return msgspec.structs.replace(receipt, acked_at=acked_at, dropped_at=None, error=error)
    if is_waiting(receipt) and not reported.asks_for(receipt):
        # Or it stays as it is: written again, it would be younger than what may yet end it.
        return after_drop(receipt, now) if reported.rules_out(stored) else receipt
    if result is None:
        return receipt
    if is_waiting(receipt):
        return msgspec.structs.replace(receipt, error=result.error[:ERROR_LENGTH])
    return after_drop(receipt, now)


def after_drop(receipt: ReceiptRecord, now: float) -> ReceiptRecord:
    """Return the receipt of what a node no longer holds."""
    dropped_at = receipt.dropped_at if receipt.dropped_at is not None else now
    return msgspec.structs.replace(receipt, dropped_at=dropped_at, error="")


def _key(receipt: ReceiptRecord) -> VersionKey:
    return VersionKey(receipt.secret_id, receipt.version)
