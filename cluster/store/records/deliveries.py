"""Records of what was delivered: receipts per version and node, rollouts with their targets."""

from enum import StrEnum

import msgspec

from cluster.protocol.ids import ManagerId, NodeId, RolloutId, SecretId, ServiceId, VersionNumber
from cluster.store.records.kinds import Kind, Record


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
