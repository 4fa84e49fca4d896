"""Records of services and their tasks: what is wanted, where it is placed, what agents report."""

from enum import StrEnum

import msgspec

from cluster.protocol.ids import NodeId, SecretId, ServiceId, TaskId, VersionNumber
from cluster.store.records.kinds import Kind, Record


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
