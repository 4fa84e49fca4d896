"""The typed records of the sealed store: what is remembered, one type per kind.

Every record is a frozen msgspec struct, encoded as a tagged msgpack map and sealed before it
reaches the engine. A record knows its `kind` and its `id`; its generation (how many times it was
written) lives in the envelope. Adding a field needs a default, so that older records still open; a
change of meaning needs a new `FORMAT`.

Times are unix seconds (float): they are compared with an injected clock and never shown raw.
"""

from enum import StrEnum
from typing import ClassVar, TypeVar

import msgspec

from cluster.protocol.errors import OpenFailed
from cluster.protocol.ids import (
    Incarnation,
    ManagerId,
    NodeId,
    RolloutId,
    SecretId,
    ServiceId,
    TaskId,
    TokenId,
    VersionNumber,
)

FORMAT = 1
"""Version of the records' layout, kept in the cluster record."""

CLUSTER_ID = "cluster"


class Kind(StrEnum):
    """The kinds of records; each is a keyspace of its own."""

    CLUSTER = "cluster"
    AUTHORITY = "authority"
    MANAGER = "manager"
    NODE = "node"
    NODE_STATUS = "node-status"
    OPERATOR = "operator"
    JOIN_TOKEN = "join-token"  # noqa: S105  # a kind's name, no token
    SECRET = "secret"  # noqa: S105  # a kind's name
    SECRET_VALUE = "secret-value"  # noqa: S105  # a kind's name
    SERVICE = "service"
    TASK = "task"
    TASK_STATUS = "task-status"
    RECEIPT = "receipt"
    ROLLOUT = "rollout"
    REQUEST = "request"
    NAME = "name"
    AUDIT_STREAM = "audit-stream"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What all records share."""

    kind: ClassVar[Kind]
    id: str


# --- the cluster itself -------------------------------------------------------------------------


class Outage(msgspec.Struct, frozen=True):
    """A time in which the cluster served nobody.

    A certificate that expired in it may return after its end.
    """

    started_at: float
    ended_at: float


class ClusterRecord(Record, frozen=True, kw_only=True):
    """The one record about the whole cluster; its id is `CLUSTER_ID`."""

    kind = Kind.CLUSTER
    cluster_id: str
    trust_domain: str
    created_at: float
    format: int = FORMAT
    incarnation_counter: int
    incarnation_unique: str
    unlock_verifier: bytes
    """Lets a joining manager check the unlock key without revealing it."""
    node_ttl_s: float = 86_400.0
    operator_ttl_s: float = 30 * 86_400.0
    manager_ttl_s: float = 90 * 86_400.0
    return_grace_s: float = 7 * 86_400.0
    lease_s: float = 60.0
    alive_at: float = 0.0
    """Last sign of life, written every few minutes by the placement holder: a gap is an outage."""
    outages: tuple[Outage, ...] = ()

    @property
    def incarnation(self) -> Incarnation:
        """The store's present life."""
        return Incarnation(self.incarnation_counter, self.incarnation_unique)


class AuthorityRecord(Record, frozen=True, kw_only=True):
    """A certificate authority with its key; id is `<role>-<serial>`."""

    kind = Kind.AUTHORITY
    role: str
    """"root", "control" or "workload"."""
    certificate: bytes
    private_key: bytes
    """PKCS#8 DER; sealed with the record."""
    active: bool = True
    """Signs new certificates; an inactive one is only trusted."""

    def __repr__(self) -> str:
        return f"AuthorityRecord(id={self.id!r})"


class ManagerState(StrEnum):
    """A manager's way in and out."""

    PENDING = "pending"
    ACTIVE = "active"
    REMOVED = "removed"


class PendingJoin(msgspec.Struct, frozen=True):
    """A join that was admitted and may ask again for the same reply until it expires."""

    token_id: TokenId
    public_key_digest: str
    reply: bytes
    """The whole reply: secrets in it are sealed by HPKE to the joiner's key."""
    expires_at: float


class ManagerRecord(Record, frozen=True, kw_only=True):
    """A manager; id is its ManagerId."""

    kind = Kind.MANAGER
    name: str
    state: ManagerState
    api_address: str
    """host:port of the listener that requires a certificate (7443)."""
    join_address: str
    """host:port of the listener for joining (7444)."""
    peer_address: str = ""
    """host:port of the engine's peer listener; empty on SQLite."""
    joined_at: float
    serials: tuple[str, ...] = ()
    """Hex serials of its newest certificate and the one before."""
    pending: PendingJoin | None = None


# --- nodes, operators, tokens -------------------------------------------------------------------


class Availability(StrEnum):
    """Whether a node may be given tasks."""

    ACTIVE = "active"
    DRAIN = "drain"


class NodeRecord(Record, frozen=True, kw_only=True):
    """A worker node; id is its NodeId."""

    kind = Kind.NODE
    name: str
    labels: dict[str, str] = {}
    availability: Availability = Availability.ACTIVE
    revoked_at: float | None = None
    """Set by `node rm`: no session, no renewal, no return after it."""
    created_at: float
    serials: tuple[str, ...] = ()
    """Hex serials of the newest certificate and the one before: only these may speak."""
    public_keys: tuple[str, ...] = ()
    """SPKI digests belonging to `serials`."""
    not_after: float = 0.0
    join: PendingJoin | None = None


class NodeState(StrEnum):
    """What the managers know of a node's agent."""

    UNKNOWN = "unknown"
    READY = "ready"
    DOWN = "down"


class NodeStatusRecord(Record, frozen=True, kw_only=True):
    """Where a node's session is; id is its NodeId."""

    kind = Kind.NODE_STATUS
    state: NodeState
    manager_id: ManagerId
    """The manager that holds (or last held) the session."""
    session_id: str
    since: float
    address: str = ""
    agent_version: str = ""
    mounts: str = ""
    """"kernel" or "given"."""
    strength: str = ""
    """"secure" or "weak", as the agent proved its mounts."""
    boot_id: str = ""


class OperatorRole(StrEnum):
    """What an operator may do."""

    ADMIN = "admin"
    DEPLOYER = "deployer"
    AUDITOR = "auditor"


class OperatorRecord(Record, frozen=True, kw_only=True):
    """An operator; id is the name."""

    kind = Kind.OPERATOR
    role: OperatorRole
    labels: dict[str, str] = {}
    """For a deployer: only objects that carry all of these labels are in reach."""
    created_at: float
    serials: tuple[str, ...] = ()
    not_after: float = 0.0
    enrolment: PendingJoin | None = None
    removed_at: float | None = None


class TokenRole(StrEnum):
    """What a join token admits."""

    WORKER = "worker"
    MANAGER = "manager"
    OPERATOR = "operator"


class JoinTokenRecord(Record, frozen=True, kw_only=True):
    """A join token, stored as a digest; id is its TokenId."""

    kind = Kind.JOIN_TOKEN
    role: TokenRole
    digest: bytes
    expires_at: float
    uses_left: int
    name: str = ""
    """If set, the only name it admits (for an operator: always set)."""
    networks: tuple[str, ...] = ()
    """If set, the CIDR networks a caller must come from."""
    created_at: float
    created_by: str


class NameRecord(Record, frozen=True, kw_only=True):
    """A claimed name; id is `name_id()`.

    Two managers cannot give one name to two objects: both create this record.
    """

    kind = Kind.NAME
    owner: str
    """Id of the object that has the name."""


def name_id(kind: Kind, name: str) -> str:
    """Return the record id of a name: names that differ only in case are one name."""
    return f"{kind.value}/{name.lower()}"


# --- secrets ------------------------------------------------------------------------------------


class VersionState(StrEnum):
    """The life of a secret version. Exactly one version is primary."""

    PRIMARY = "primary"
    ACTIVE = "active"
    RETIRED = "retired"


class SecretVersion(msgspec.Struct, frozen=True):
    """A version's metadata; there is no field that could hold a value."""

    number: VersionNumber
    state: VersionState
    size: int
    created_at: float
    created_by: str


class SecretRecord(Record, frozen=True, kw_only=True):
    """A secret's metadata; id is its SecretId. Numbers are never reused."""

    kind = Kind.SECRET
    name: str
    labels: dict[str, str] = {}
    versions: tuple[SecretVersion, ...]
    next_number: int
    created_at: float
    updated_at: float

    @property
    def primary(self) -> SecretVersion:
        """The one primary version."""
        return next(v for v in self.versions if v.state is VersionState.PRIMARY)


class SecretValueRecord(Record, frozen=True, kw_only=True):
    """The value of one version; id is `value_id()`. Stays sealed in memory until it is issued."""

    kind = Kind.SECRET_VALUE
    value: bytes

    def __repr__(self) -> str:
        return f"SecretValueRecord(id={self.id!r})"


def value_id(secret_id: SecretId, version: VersionNumber) -> str:
    """Return the record id of a version's value."""
    return f"{secret_id}/{version}"


# --- services, tasks ----------------------------------------------------------------------------


class LeaseLoss(StrEnum):
    """What a node does with a file when its lease runs out."""

    KEEP = "keep"
    WIPE = "wipe"


class OnChange(msgspec.Struct, frozen=True):
    """What the agent does in the service after a file was swapped: a signal or a command."""

    signal: str = ""
    """"HUP", "USR1", ...; sent to the process `exec` started."""
    command: tuple[str, ...] = ()
    """Run with the service's identity."""
    timeout_s: float = 10.0


class SecretReference(msgspec.Struct, frozen=True):
    """A service's claim on a secret. It yields a set of files (today: one)."""

    secret_id: SecretId
    source: str
    """The secret's name when the reference was made."""
    target: str
    uid: int | None = None
    gid: int | None = None
    mode: int = 0o440
    version: VersionNumber | None = None
    """None follows the primary."""
    on_lease_loss: LeaseLoss = LeaseLoss.KEEP


class ServiceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a service wants."""

    references: tuple[SecretReference, ...] = ()
    constraints: tuple[str, ...] = ()
    """`node.labels.KEY==VALUE`, `node.name!=VALUE`, ...: all must hold."""
    replicas: int | None = 1
    """None: global, one task on every node that fits."""
    uid: int = 65534
    gid: int = 65534
    labels: dict[str, str] = {}
    on_change: OnChange | None = None


class ServiceRecord(Record, frozen=True, kw_only=True):
    """A service; id is its ServiceId."""

    kind = Kind.SERVICE
    name: str
    spec: ServiceSpec
    previous_spec: ServiceSpec | None = None
    spec_number: int = 1
    created_at: float
    updated_at: float


class TaskState(StrEnum):
    """What placement wants of a task."""

    RUNNING = "running"
    SHUTDOWN = "shutdown"


class TaskRecord(Record, frozen=True, kw_only=True):
    """A service's assignment to a node, at most one per pair; id is `task_id()`."""

    kind = Kind.TASK
    service_id: ServiceId
    node_id: NodeId
    state: TaskState
    created_at: float
    reason: str = ""
    """Why it was placed here, for `service ps`."""


def task_id(service_id: ServiceId, node_id: NodeId) -> TaskId:
    """Return the id of a service's task on a node."""
    return TaskId(f"{service_id}.{node_id}")


class MountedVersion(msgspec.Struct, frozen=True):
    """A secret version that a node reported in place for a service, and since when."""

    secret_id: SecretId
    version: VersionNumber
    since: float


class TaskStatusRecord(Record, frozen=True, kw_only=True):
    """What the agent last reported of a task; id is the task's id.

    Answers `service ps` and ends rollouts.
    """

    kind = Kind.TASK_STATUS
    spec_number: int
    """The spec it carried out last."""
    mounted: tuple[MountedVersion, ...] = ()
    error: str = ""
    at: float


class ReceiptRecord(Record, frozen=True, kw_only=True):
    """The durable record that a node may have received a version for a service.

    The id is `receipt_id()`.

    It exists before the value leaves a manager; the agent's ack completes it.
    """

    kind = Kind.RECEIPT
    secret_id: SecretId
    version: VersionNumber
    node_id: NodeId
    service_id: ServiceId
    issued_at: float
    issued_by: ManagerId
    acked_at: float | None = None
    """When the agent last reported the file written."""
    dropped_at: float | None = None
    """When the agent reported that it no longer holds it."""
    error: str = ""
    """The agent's last refusal, for `service ps`."""


def receipt_id(
    secret_id: SecretId, version: VersionNumber, node_id: NodeId, service_id: ServiceId
) -> str:
    """Return the id of a receipt."""
    return f"{secret_id}/{version}/{node_id}/{service_id}"


class RolloutKind(StrEnum):
    """What a rollout brings out."""

    ROTATE = "rotate"
    SERVICE = "service"


class TargetState(StrEnum):
    """How far one task of a rollout is."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"
    GONE = "gone"
    """The task was removed meanwhile."""


class RolloutTarget(msgspec.Struct, frozen=True):
    """One task that a rollout must reach."""

    service_id: ServiceId
    node_id: NodeId
    state: TargetState = TargetState.PENDING
    at: float = 0.0
    error: str = ""


class RolloutRecord(Record, frozen=True, kw_only=True):
    """A persisted rollout with its state per node; id is its RolloutId."""

    kind = Kind.ROLLOUT
    what: RolloutKind
    name: str
    """Of the secret or the service."""
    secret_id: SecretId | None = None
    version: VersionNumber | None = None
    service_id: ServiceId | None = None
    spec_number: int | None = None
    targets: tuple[RolloutTarget, ...]
    started_at: float
    started_by: str
    finished_at: float | None = None
    superseded_by: RolloutId | None = None


class RequestRecord(Record, frozen=True, kw_only=True):
    """The answer to an operator's write, kept so that a resend learns it; id is the request id."""

    kind = Kind.REQUEST
    caller: str
    digest: str
    """SHA-256 of method, path and body under the index key: no value's digest is stored plain."""
    status: int
    answer: bytes
    """JSON, never a value."""
    expires_at: float


# --- audit --------------------------------------------------------------------------------------


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who asked for what and whether it was allowed; never a value."""

    at: float
    caller: str
    """SPIFFE id, `local-root`, or `anonymous@address`."""
    action: str
    resource: str
    allowed: bool
    detail: str = ""
    count: int = 1
    """More than one: equal refusals that were coalesced."""
    writes: tuple[tuple[bytes, int], ...] = ()
    """(blinded key, generation) of each record written; generation 0 stands for a removal.

    By these a stopped cluster can be checked against the chain.
    """


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One link of a chain: all entries of one engine transaction. Lives in an append stream.

    The next link holds the digest of its encoding. Defaults are left out, so that a field added
    later does not change the encoding of older links.
    """

    manager_id: ManagerId
    boot: str
    lane: int
    sequence: int
    """From 1, without gap, per (manager, boot, lane)."""
    previous: bytes
    """SHA-256 of the link before; 32 zero bytes at the start."""
    entries: tuple[AuditEntry, ...]
    writes: tuple[tuple[bytes, int], ...] = ()
    """As in an entry, for the records that were written without an entry of their own."""


class AuditStreamRecord(Record, frozen=True, kw_only=True):
    """A chain that has a first link; id is `audit_stream()`.

    Created with that link, so no chain can be overlooked.
    """

    kind = Kind.AUDIT_STREAM
    manager_id: ManagerId
    boot: str
    lane: int
    started_at: float


def audit_stream(manager_id: ManagerId, boot: str, lane: int) -> str:
    """Return the name of an audit append stream."""
    return f"audit/{manager_id}/{boot}/{lane}"


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
        ServiceRecord,
        TaskRecord,
        TaskStatusRecord,
        ReceiptRecord,
        RolloutRecord,
        RequestRecord,
        NameRecord,
        AuditStreamRecord,
    )
}

_ENCODER = msgspec.msgpack.Encoder()
_DECODERS = {kind: msgspec.msgpack.Decoder(record) for kind, record in RECORD_TYPES.items()}
_AUDIT_DECODER = msgspec.msgpack.Decoder(AuditRecord)

R = TypeVar("R", bound=Record)


def encode(record: Record | AuditRecord) -> bytes:
    """Return the plaintext of a record, to be sealed."""
    return _ENCODER.encode(record)


def decode(kind: Kind, plaintext: bytes) -> Record:
    """Return the record in `plaintext`; one that does not decode was not written by us."""
    try:
        return _DECODERS[kind].decode(plaintext)
    except msgspec.MsgspecError as error:
        raise OpenFailed from error


def decode_audit(plaintext: bytes) -> AuditRecord:
    """Return the audit link in `plaintext`."""
    try:
        return _AUDIT_DECODER.decode(plaintext)
    except msgspec.MsgspecError as error:
        raise OpenFailed from error
