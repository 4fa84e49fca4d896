"""Transactions in etcd's terms, and replies in the seam's: pure translation.

Every transaction compares that its request id has no record, and writes one. So resending is safe,
and the failure branch says which it was: the id is known (applied before, or cancelled), or a
compare failed; it reads the id first and then every compared key, all at one revision.
"""

from collections.abc import Sequence

from cluster.engine import etcd_pb2 as pb
from cluster.engine.etcd_channel import CAMPAIGN, DATA, REQUEST, entry_of
from cluster.engine.seam import (
    Absent,
    Cancelled,
    Committed,
    Compare,
    CompareFailed,
    Held,
    Operation,
    Put,
)
from cluster.protocol.errors import InvariantViolation

APPLIED = b"+"
CANCELLED = b"x"


def transaction(
    request_id: bytes, compares: Sequence[Compare], operations: Sequence[Operation], lease: int
) -> pb.TxnRequest:
    """Return a guarded transaction; its request id's record lives as long as `lease`."""
    return pb.TxnRequest(
        compare=[_unrecorded(request_id), *map(_compare, compares)],
        success=[_record(request_id, APPLIED, lease), *map(_operation, operations)],
        failure=[_look(REQUEST + request_id), *(_look(_stored(c)) for c in compares)],
    )


def cancellation(request_id: bytes, lease: int) -> pb.TxnRequest:
    """Return the transaction after which a request id cannot commit any more."""
    return pb.TxnRequest(
        compare=[_unrecorded(request_id)],
        success=[_record(request_id, CANCELLED, lease)],
        failure=[_look(REQUEST + request_id)],
    )


def outcome(reply: pb.TxnResponse) -> Committed | CompareFailed:
    """Return what a reply to `transaction` says."""
    if reply.succeeded:
        return Committed(reply.header.revision)
    known, *met = (_looked_up(response) for response in reply.responses)
    match recorded(known):
        case Committed() as before:
            return before
        case Cancelled():
            return CompareFailed(())
        case None:
            return CompareFailed(tuple(None if kv is None else entry_of(kv) for kv in met))


def settled(reply: pb.TxnResponse) -> Committed | Cancelled:
    """Return what a reply to `cancellation` says."""
    if reply.succeeded:
        return Cancelled()
    known = recorded(_looked_up(reply.responses[0]))
    if known is None:
        raise InvariantViolation("a request id was both present and absent at one revision")
    return known


def recorded(kv: pb.KeyValue | None) -> Committed | Cancelled | None:
    """Return what a request id's record says: it was written at the revision of its transaction."""
    if kv is None:
        return None
    return Cancelled() if kv.value == CANCELLED else Committed(kv.mod_revision)


def _unrecorded(request_id: bytes) -> pb.Compare:
    return pb.Compare(
        key=REQUEST + request_id,
        target=pb.Compare.CREATE,
        result=pb.Compare.EQUAL,
        create_revision=0,
    )


def _record(request_id: bytes, value: bytes, lease: int) -> pb.RequestOp:
    put = pb.PutRequest(key=REQUEST + request_id, value=value, lease=lease)
    return pb.RequestOp(request_put=put)


def _stored(compare: Compare) -> bytes:
    return (CAMPAIGN if isinstance(compare, Held) else DATA) + compare.key


def _compare(compare: Compare) -> pb.Compare:
    key = _stored(compare)
    if isinstance(compare, Absent):
        return pb.Compare(
            key=key, target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=0
        )
    return pb.Compare(
        key=key,
        target=pb.Compare.MOD,
        result=pb.Compare.EQUAL,
        mod_revision=compare.mod_revision,
    )


def _operation(operation: Operation) -> pb.RequestOp:
    key = DATA + operation.key
    if isinstance(operation, Put):
        return pb.RequestOp(request_put=pb.PutRequest(key=key, value=operation.value))
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))


def _look(key: bytes) -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key))


def _looked_up(response: pb.ResponseOp) -> pb.KeyValue | None:
    found = response.response_range.kvs
    return found[0] if found else None
