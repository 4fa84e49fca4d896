"""Records as bytes: tagged msgpack, to be sealed."""

import msgspec

from cluster.protocol.errors import OpenFailed
from cluster.protocol.undecodable import UNDECODABLE
from cluster.store.records.audit import (
    AuditCheckpointRecord,
    AuditRecord,
    AuditStreamRecord,
    AuditSummaryRecord,
    RequestRecord,
)
from cluster.store.records.cluster import AuthorityRecord, ClusterRecord, ManagerRecord
from cluster.store.records.deliveries import ReceiptRecord, RolloutRecord
from cluster.store.records.kinds import Kind, Record
from cluster.store.records.members import (
    JoinTokenRecord,
    NameRecord,
    NodeRecord,
    NodeStatusRecord,
    OperatorRecord,
)
from cluster.store.records.rotations import RotationRecord
from cluster.store.records.secrets import ConfigRecord, SecretRecord, SecretValueRecord
from cluster.store.records.services import ServiceRecord, TaskRecord, TaskStatusRecord
from cluster.store.records.task_history import TaskHistoryRecord

RECORD_TYPES: dict[Kind, type[Record]] = {
    record.kind: record
    for record in (
        ClusterRecord,
        AuthorityRecord,
        ManagerRecord,
        NodeRecord,
        NodeStatusRecord,
        OperatorRecord,
        JoinTokenRecord,
        SecretRecord,
        SecretValueRecord,
        ConfigRecord,
        ServiceRecord,
        TaskRecord,
        TaskStatusRecord,
        TaskHistoryRecord,
        ReceiptRecord,
        RolloutRecord,
        RotationRecord,
        RequestRecord,
        NameRecord,
        AuditStreamRecord,
        AuditCheckpointRecord,
        AuditSummaryRecord,
    )
}


_ENCODER = msgspec.msgpack.Encoder()
_DECODERS = {kind: msgspec.msgpack.Decoder(record) for kind, record in RECORD_TYPES.items()}
_AUDIT_DECODER = msgspec.msgpack.Decoder(AuditRecord)


def encode(record: Record | AuditRecord) -> bytes:
    """Return the plaintext of a record, to be sealed."""
    return _ENCODER.encode(record)


def decode(kind: Kind, plaintext: bytes) -> Record:
    """Return the record in `plaintext`; one that does not decode was not written by us."""
    try:
        return _DECODERS[kind].decode(plaintext)
    except UNDECODABLE:
        # msgspec's text may quote a value.
        raise OpenFailed from None


def decode_audit(plaintext: bytes) -> AuditRecord:
    """Return the audit link in `plaintext`."""
    try:
        return _AUDIT_DECODER.decode(plaintext)
    except UNDECODABLE:
        # msgspec's text may quote a value.
        raise OpenFailed from None
