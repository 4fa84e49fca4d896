"""Records of tasks that ended: where they were, until when, and why they went. Never a value."""

from enum import StrEnum

import msgspec

from cluster.protocol.ids import NodeId
from cluster.store.records.kinds import Kind, Record


class EndedState(StrEnum):
    """How a task ended."""

    SHUTDOWN = "shutdown"
    """Its node was there to be told, and drops its files."""
    ORPHANED = "orphaned"
    """Its node was silent: it may hold its files until it comes back or their lease ends."""


class EndedTask(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A task as it was when it ended."""

    node_id: NodeId
    node_name: str
    """Names outlive what they named."""
    state: EndedState
    since: float
    ended_at: float
    reason: str
    unwell: bool = False
    """Whether it went because its service's own check kept failing there."""


class TaskHistoryRecord(Record, frozen=True, kw_only=True):
    """The tasks of a service that ended last, the newest first; id is the ServiceId.

    Made only while the service exists, and removed with it.
    """

    kind = Kind.TASK_HISTORY
    ended: tuple[EndedTask, ...] = ()
