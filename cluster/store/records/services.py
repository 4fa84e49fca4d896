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
    """A service's claim on a secret or a config. It yields a set of files: one, or two with
    `previous`."""

    secret_id: SecretId
    source: str
    """Its name when the reference was made."""
    target: str
    uid: int | None = None
    gid: int | None = None
    mode: int = 0o440
    version: VersionNumber | None = None
    """None follows the primary."""
    on_lease_loss: LeaseLoss = LeaseLoss.KEEP
    lease_s: float | None = None
    """How long a file that is wiped may outlive the last lease; None: the node's lease."""
    previous: bool = False
    """Whether `TARGET.previous` holds the version before, while it is still active."""
    config: bool = False
    """Whether it means a config: their names are not those of secrets."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The files it may yield: the target, then the one of the version before."""
        return (self.target, f"{self.target}.previous") if self.previous else (self.target,)


class FailureAction(StrEnum):
    """What a rollout does when a service does not take a change."""

    PAUSE = "pause"
    CONTINUE = "continue"
    ROLLBACK = "rollback"


class UpdatePolicy(msgspec.Struct, frozen=True):
    """How a change goes out over a service's tasks."""

    parallelism: int = 0
    """Tasks changed at once; 0: all."""
    delay_s: float = 0.0
    """Rest between two groups."""
    canary: int = 0
    """Tasks that take the change first, alone."""
    monitor_s: float = 0.0
    """How long a task must stay healthy after its change."""
    patience_s: float = 60.0
    """How long a task may take to carry a change out before it counts as failed."""
    on_failure: FailureAction = FailureAction.PAUSE


class Health(msgspec.Struct, frozen=True):
    """How a service is asked whether it works: exactly one of the three."""

    command: tuple[str, ...] = ()
    """Run on the node with the service's identity; exit status 0 is healthy."""
    url: str = ""
    """Fetched from the node, http on loopback; 2xx and 3xx are healthy."""
    process: bool = False
    """Whether the process that `exec` started still runs."""
    interval_s: float = 1.0
    timeout_s: float = 5.0
    retries: int = 3
    replace_after_s: float = 0.0
    """How long a task may stay unhealthy before another node is tried; 0: for ever."""


class ServiceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a service wants."""

    references: tuple[SecretReference, ...] = ()
    constraints: tuple[str, ...] = ()
    """`node.labels.KEY==VALUE`, `node.name!=VALUE`, ...: all must hold."""
    placement_prefs: tuple[str, ...] = ()
    """`spread=node.labels.KEY`, ...: new tasks go evenly over a label's values."""
    replicas: int | None = 1
    """None: global, one task on every node that fits."""
    uid: int = 65534
    gid: int = 65534
    labels: dict[str, str] = {}
    on_change: OnChange | None = None
    update: UpdatePolicy = UpdatePolicy()
    health: Health | None = None
    certificate: bool = False
    """Whether the service finds a certificate of its own among its files."""
    logs: bool = False
    """Whether nodes keep the last lines of its output in memory, for `service logs`."""


class ServiceRecord(Record, frozen=True, kw_only=True):
    """A service; id is its ServiceId."""

    kind = Kind.SERVICE
    name: str
    spec: ServiceSpec
    previous_spec: ServiceSpec | None = None
    spec_number: int = 1
    created_at: float
    updated_at: float
    request_id: str = ""
    """Of the request that gave it this spec; empty: a manager did by itself."""


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
    healthy: bool | None = None
    """What the service's own check said of what is mounted; None: not asked, or no answer yet."""
    health_detail: str = ""
    health_at: float = 0.0
