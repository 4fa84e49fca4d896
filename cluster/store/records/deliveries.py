"""Records of what was delivered: receipts per version and node, rollouts with their targets."""

import sys
from enum import StrEnum
from typing import Final

import msgspec

from cluster.protocol.ids import ManagerId, NodeId, RolloutId, SecretId, ServiceId, VersionNumber
from cluster.store.records.kinds import Kind, Record
from cluster.store.records.services import ServiceSpec, UpdatePolicy

_REPEATED: Final = (
    "secret_id",
    "node_id",
    "service_id",
    "issued_by",
    "secret_name",
    "node_name",
    "service_name",
)
"""What a receipt shares with many others."""


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
    first_issued_at: float | None = None
    """When it was issued for the first time, if what was dropped was issued anew."""
    secret_name: str = ""
    node_name: str = ""
    service_name: str = ""
    """Names outlive what they named: a removed node's receipts still tell which node it was."""
    orphaned_at: float | None = None
    """When its secret was found gone: from then on the receipt itself has an end."""
    config: bool = False
    """Whether it is of a config: its name is then that of a config."""

    def __post_init__(self) -> None:
        """Keep one text of each that repeats: a manager holds a receipt for each node and version,
        and they would be a third of its memory."""
        for name in _REPEATED:
            msgspec.structs.force_setattr(self, name, sys.intern(getattr(self, name)))

    @property
    def since(self) -> float:
        """From when on the node may have had the version."""
        return self.issued_at if self.first_issued_at is None else self.first_issued_at


def receipt_id(
    secret_id: SecretId, version: VersionNumber, node_id: NodeId, service_id: ServiceId
) -> str:
    """Return the id of a receipt."""
    return f"{secret_id}/{version}/{node_id}/{service_id}"


class RolloutKind(StrEnum):
    """What a rollout brings out."""

    ROTATE = "rotate"
    SERVICE = "service"


class RolloutState(StrEnum):
    """Where a rollout stands."""

    RUNNING = "running"
    PAUSED = "paused"
    """Nothing more is released until an operator resumes it or takes it back."""
    FINISHED = "finished"
    FAILED = "failed"
    """It is over, and `reason` says what it left undone."""
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    SUPERSEDED = "superseded"


class TargetState(StrEnum):
    """How far one task of a rollout is."""

    PENDING = "pending"
    """It holds what it had before."""
    RELEASED = "released"
    """It is given the change, and is not yet proven."""
    DONE = "done"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    """Its node was down when its turn came."""
    BACK = "back"
    """It holds again what it had before."""
    GONE = "gone"
    """The task was removed meanwhile, or is not concerned any more."""


class RolloutTarget(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One task that a rollout must reach."""

    service_id: ServiceId
    node_id: NodeId
    state: TargetState = TargetState.PENDING
    at: float = 0.0
    error: str = ""
    released_at: float | None = None
    """Since when it is given the change; None: it is held at `before`."""
    before: int | None = None
    """The version, or the number of the spec, that it holds until it is released; None: the
    rollout's."""
    healthy_since: float | None = None
    """Since when it has the change in place and works."""


class HeldSpec(msgspec.Struct, frozen=True):
    """A spec that tasks keep until an update is released to them."""

    number: int
    spec: ServiceSpec


class RolloutRecord(Record, frozen=True, kw_only=True):
    """A persisted rollout with its state per task; id is its RolloutId.

    It is open, and may hold tasks back, while `finished_at` is None.
    """

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
    state: RolloutState = RolloutState.RUNNING
    reason: str = ""
    """Why it is paused, was taken back, or left something undone."""
    policy: UpdatePolicy | None = None
    """None: it goes to all tasks at once, and nothing but the files in place is judged."""
    before_version: VersionNumber | None = None
    """Of a rotation: the version that was good before it."""
    before_spec_number: int | None = None
    """Of an update: the spec in `held_specs` that was good before it."""
    held_specs: tuple[HeldSpec, ...] = ()
    canary_passed: bool = False
    rested_since: float | None = None
    """Since when every task that was released is over."""
    back_spec_number: int | None = None
    """The number under which the spec before came back."""
