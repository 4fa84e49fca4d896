"""The typed records of the sealed store: what is remembered, one type per kind.

Every record is a frozen msgspec struct, encoded as a tagged msgpack map and sealed before it
reaches the engine. A record knows its `kind` and its `id`; its generation (how many times it was
written) lives in the envelope. Adding a field needs a default, so that older records still open; a
change of meaning needs a new `FORMAT`.

Times are unix seconds (float): they are compared with an injected clock and never shown raw.
"""

from cluster.store.records.audit import (
    CHECKPOINT_ID,
    AuditCheckpointRecord,
    AuditEntry,
    AuditRecord,
    AuditStreamRecord,
    AuditSummaryRecord,
    RequestRecord,
    TrimmedHead,
    audit_stream,
    summary_id,
)
from cluster.store.records.cluster import (
    CLUSTER_ID,
    AuthorityRecord,
    ClusterRecord,
    ManagerRecord,
    ManagerState,
    Outage,
    PendingJoin,
)
from cluster.store.records.codec import RECORD_TYPES, decode, decode_audit, encode
from cluster.store.records.deliveries import (
    ReceiptRecord,
    RolloutKind,
    RolloutRecord,
    RolloutTarget,
    TargetState,
    receipt_id,
)
from cluster.store.records.kinds import FORMAT, Kind, Record
from cluster.store.records.members import (
    Availability,
    JoinTokenRecord,
    NameRecord,
    NodeRecord,
    NodeState,
    NodeStatusRecord,
    OperatorRecord,
    OperatorRole,
    TokenRole,
    name_id,
)
from cluster.store.records.rotations import RotationRecord, RotationStep
from cluster.store.records.secrets import (
    RotationSchedule,
    SecretRecord,
    SecretValueRecord,
    SecretVersion,
    VersionState,
    value_id,
)
from cluster.store.records.services import (
    FailureAction,
    Health,
    LeaseLoss,
    MountedVersion,
    OnChange,
    SecretReference,
    ServiceRecord,
    ServiceSpec,
    TaskRecord,
    TaskState,
    TaskStatusRecord,
    UpdatePolicy,
    task_id,
)

__all__ = [
    "CHECKPOINT_ID",
    "CLUSTER_ID",
    "FORMAT",
    "RECORD_TYPES",
    "AuditCheckpointRecord",
    "AuditEntry",
    "AuditRecord",
    "AuditStreamRecord",
    "AuditSummaryRecord",
    "AuthorityRecord",
    "Availability",
    "ClusterRecord",
    "FailureAction",
    "Health",
    "JoinTokenRecord",
    "Kind",
    "LeaseLoss",
    "ManagerRecord",
    "ManagerState",
    "MountedVersion",
    "NameRecord",
    "NodeRecord",
    "NodeState",
    "NodeStatusRecord",
    "OnChange",
    "OperatorRecord",
    "OperatorRole",
    "Outage",
    "PendingJoin",
    "ReceiptRecord",
    "Record",
    "RequestRecord",
    "RolloutKind",
    "RolloutRecord",
    "RolloutTarget",
    "RotationRecord",
    "RotationSchedule",
    "RotationStep",
    "SecretRecord",
    "SecretReference",
    "SecretValueRecord",
    "SecretVersion",
    "ServiceRecord",
    "ServiceSpec",
    "TargetState",
    "TaskRecord",
    "TaskState",
    "TaskStatusRecord",
    "TokenRole",
    "TrimmedHead",
    "UpdatePolicy",
    "VersionState",
    "audit_stream",
    "decode",
    "decode_audit",
    "encode",
    "name_id",
    "receipt_id",
    "summary_id",
    "task_id",
    "value_id",
]
