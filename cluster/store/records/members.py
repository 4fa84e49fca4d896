"""Records about who may speak: nodes, operators, join tokens, and the names objects claim."""

from enum import StrEnum

import msgspec

from cluster.protocol.ids import ManagerId
from cluster.store.records.cluster import PendingJoin
from cluster.store.records.kinds import Kind, Record


class Availability(StrEnum):
    """Whether a node may be given tasks."""

    ACTIVE = "active"
    DRAIN = "drain"


class NodeRecord(Record, frozen=True, kw_only=True):
    """A worker node; id is its NodeId."""

    kind = Kind.NODE
    name: str
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    availability: Availability = Availability.ACTIVE
    availability_by: str = ""
    """Who said so last, for the tasks that it moves."""
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
    labels: dict[str, str] = msgspec.field(default_factory=dict)
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
