"""What every engine refuses before it does anything: one check, so that all refuse alike.

The limits themselves are part of the seam. etcd's own are a little wider (notes in ADR 0002).
"""

from collections.abc import Sequence

from cluster.engine.seam import (
    MAX_KEY_BYTES,
    MAX_OPERATIONS,
    MAX_TRANSACTION_BYTES,
    MAX_VALUE_BYTES,
    REQUEST_ID_SIZE,
    Compare,
    Operation,
    Put,
)
from cluster.protocol.errors import InvalidRequest, TransactionTooLarge


def check_request_id(request_id: bytes) -> None:
    """Raise InvalidRequest unless the id has its fixed size."""
    if len(request_id) != REQUEST_ID_SIZE:
        raise InvalidRequest(f"a request id takes {REQUEST_ID_SIZE} bytes")


def check_key(key: bytes) -> None:
    """Raise InvalidRequest unless a key is of a length that every engine takes."""
    if not 1 <= len(key) <= MAX_KEY_BYTES:
        raise InvalidRequest(f"a key takes 1 to {MAX_KEY_BYTES} bytes")


def check_transaction(
    request_id: bytes, compares: Sequence[Compare], operations: Sequence[Operation]
) -> None:
    """Raise TransactionTooLarge or InvalidRequest for what no engine can commit."""
    check_request_id(request_id)
    # the request id's own compare and record take a place in each list
    if max(len(compares), len(operations)) + 1 > MAX_OPERATIONS:
        raise TransactionTooLarge(f"a transaction takes at most {MAX_OPERATIONS - 1} operations")
    for key in (*(c.key for c in compares), *(o.key for o in operations)):
        check_key(key)
    if len({operation.key for operation in operations}) != len(operations):
        raise InvalidRequest("a transaction takes one operation a key; merge them before sending")
    values = [operation.value for operation in operations if isinstance(operation, Put)]
    if max(map(len, values), default=0) > MAX_VALUE_BYTES:
        raise TransactionTooLarge(f"a value takes at most {MAX_VALUE_BYTES} bytes")
    total = sum(map(len, values)) + sum(len(c.key) for c in (*compares, *operations))
    if total > MAX_TRANSACTION_BYTES:
        raise TransactionTooLarge(f"a transaction takes at most {MAX_TRANSACTION_BYTES} bytes")


def prefix_end(prefix: bytes) -> bytes | None:
    """Return the smallest key after every key under `prefix`; None when there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None
