"""What all records share: the kinds, the base, the format."""

from enum import StrEnum
from typing import ClassVar, TypeVar

import msgspec

FORMAT = 1
"""Version of the records' layout, kept in the cluster record."""


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
    CONFIG = "config"
    SERVICE = "service"
    TASK = "task"
    TASK_STATUS = "task-status"
    TASK_HISTORY = "task-history"
    RECEIPT = "receipt"
    ROLLOUT = "rollout"
    ROTATION = "rotation"
    REQUEST = "request"
    NAME = "name"
    AUDIT_STREAM = "audit-stream"
    AUDIT_CHECKPOINT = "audit-checkpoint"
    AUDIT_SUMMARY = "audit-summary"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What all records share."""

    kind: ClassVar[Kind]
    id: str


R = TypeVar("R", bound=Record)
