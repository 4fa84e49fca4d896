"""Who may do what: one table, default deny.

Owns the decision and the audit entry that records it. Pure: it is handed the principal as the
records show it now, and `now`. It never looks at a value, and knows nothing of certificates
(`callers`) or of how entries are stored (`requests`, `refusals`). Source: DESIGN 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from cluster.protocol.errors import PermissionDenied
from cluster.protocol.identity import SpiffeId
from cluster.store.records import AuditEntry

LOCAL_ROOT_NAME: Final = "local-root"


class Role(StrEnum):
    """What a principal is, as its record says."""

    ADMIN = "admin"
    DEPLOYER = "deployer"
    AUDITOR = "auditor"
    NODE = "node"
    MANAGER = "manager"
    JOINING_MANAGER = "joining-manager"
    LOCAL_ROOT = "local-root"
    ANONYMOUS = "anonymous"


class Action(StrEnum):
    """Everything that can be asked for; the value is what the audit shows."""

    SECRET_CREATE = "secret.create"  # noqa: S105  # an action's name
    SECRET_LIST = "secret.list"  # noqa: S105  # an action's name
    SECRET_INSPECT = "secret.inspect"  # noqa: S105  # an action's name
    SECRET_ROTATE = "secret.rotate"  # noqa: S105  # an action's name
    SECRET_REMOVE = "secret.remove"  # noqa: S105  # an action's name
    SECRET_LABEL = "secret.label"  # noqa: S105  # an action's name
    SECRET_UPDATE = "secret.update"  # noqa: S105  # an action's name
    SECRET_ROLLBACK = "secret.rollback"  # noqa: S105  # an action's name
    SECRET_PRUNE = "secret.prune"  # noqa: S105  # an action's name
    SECRET_RETIRE = "secret.retire"  # noqa: S105  # an action's name
    SECRET_WARN = "secret.warn"  # noqa: S105  # an action's name
    SECRET_WHERE = "secret.where"  # noqa: S105  # an action's name
    SECRET_EXPOSE = "secret.mark-exposed"  # noqa: S105  # an action's name
    SECRET_ISSUE = "secret.issue"  # noqa: S105  # an action's name
    CONFIG_CREATE = "config.create"
    CONFIG_LIST = "config.list"
    CONFIG_INSPECT = "config.inspect"
    CONFIG_READ = "config.read"
    """To have its content answered."""
    CONFIG_LABEL = "config.label"
    CONFIG_REMOVE = "config.remove"
    SERVICE_CREATE = "service.create"
    SERVICE_LIST = "service.list"
    SERVICE_INSPECT = "service.inspect"
    SERVICE_UPDATE = "service.update"
    SERVICE_ROLLBACK = "service.rollback"
    SERVICE_REMOVE = "service.remove"
    SERVICE_TASKS = "service.tasks"
    SERVICE_LOGS = "service.logs"
    SERVICE_CERTIFICATE = "service.certificate"
    ROLLOUT_LIST = "rollout.list"
    ROLLOUT_INSPECT = "rollout.inspect"
    ROLLOUT_PAUSE = "rollout.pause"
    ROLLOUT_RESUME = "rollout.resume"
    ROLLOUT_ROLLBACK = "rollout.rollback"
    HOOK_USE = "hook.use"
    """To name a hook for a secret: it acts at the third party with the manager's rights."""
    HOOK_LIST = "hook.list"
    NODE_LIST = "node.list"
    NODE_INSPECT = "node.inspect"
    NODE_EXPOSURE = "node.exposure"
    NODE_UPDATE = "node.update"
    NODE_REMOVE = "node.remove"
    NODE_JOIN = "node.join"
    NODE_RETURN = "node.return"
    NODE_RENEW = "node.renew"
    SESSION_OPEN = "session.open"
    TOKEN_CREATE = "token.create"  # noqa: S105  # an action's name
    TOKEN_LIST = "token.list"  # noqa: S105  # an action's name
    TOKEN_REMOVE = "token.remove"  # noqa: S105  # an action's name
    OPERATOR_ADD = "operator.add"
    OPERATOR_LIST = "operator.list"
    OPERATOR_REMOVE = "operator.remove"
    OPERATOR_ENROL = "operator.enrol"
    OPERATOR_RENEW = "operator.renew"
    MANAGER_LIST = "manager.list"
    MANAGER_JOIN = "manager.join"
    MANAGER_ACTIVATE = "manager.activate"
    MANAGER_RENEW = "manager.renew"
    MANAGER_REMOVE = "manager.remove"
    MANAGER_GONE = "manager.gone"
    """To note that the engine member of a manager that was removed is out."""
    STATUS_READ = "status.read"
    METRICS_READ = "metrics.read"
    KEY_ROTATE = "key.rotate"
    AUDIT_READ = "audit.read"
    EVENT_LIST = "event.list"
    STORE_MAINTAIN = "store.maintain"
    STORE_MIGRATE = "store.migrate"
    QUORUM_RECOVER = "quorum.recover"
    PLACEMENT_CHANGE = "placement.change"
    ROLLOUT_UPDATE = "rollout.update"
    ROTATION_STEP = "rotation.step"
    RECORD_SWEEP = "record.sweep"
    CLUSTER_ALIVE = "cluster.alive"
    AUDIT_TRIM = "audit.trim"
    AUDIT_EXPIRE = "audit.expire"
    KEY_DROP = "key.drop"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller with the rights its record gives it at this moment."""

    identity: SpiffeId | None
    """None for local root and for callers without a certificate."""
    name: str
    """What the audit calls it: the SPIFFE id, `local-root`, or `anonymous@address`."""
    role: Role
    labels: Mapping[str, str] = field(default_factory=dict)
    """A deployer's scope: only objects that carry all of these are in reach."""


@dataclass(frozen=True, slots=True)
class Resource:
    """What an action is aimed at.

    An object that does not exist has no labels, so a deployer cannot tell "not yours" from "not
    there".
    """

    kind: str
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    owner: str = ""
    """Id of the node, manager or operator it belongs to, where only that one may act on it."""

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}" if self.name else self.kind


class _Reach(StrEnum):
    """Which resources of an allowed action are in reach."""

    ALL = "all"
    LABELLED = "labelled"
    LISTED = "listed"
    """The list itself is open; what is shown in it is filtered by `in_reach`."""
    OWN = "own"


_READS = (
    Action.SECRET_LIST,
    Action.SECRET_INSPECT,
    Action.SECRET_WHERE,
    Action.CONFIG_LIST,
    Action.CONFIG_INSPECT,
    Action.SERVICE_LIST,
    Action.SERVICE_INSPECT,
    Action.SERVICE_TASKS,
    Action.ROLLOUT_LIST,
    Action.ROLLOUT_INSPECT,
    Action.HOOK_LIST,
    Action.NODE_LIST,
    Action.NODE_INSPECT,
    Action.NODE_EXPOSURE,
    Action.TOKEN_LIST,
    Action.OPERATOR_LIST,
    Action.MANAGER_LIST,
    Action.STATUS_READ,
    Action.METRICS_READ,
    Action.AUDIT_READ,
    Action.EVENT_LIST,
)
_OPERATOR_WRITES = (
    Action.SECRET_CREATE,
    Action.SECRET_ROTATE,
    Action.SECRET_REMOVE,
    Action.SECRET_LABEL,
    Action.SECRET_UPDATE,
    Action.SECRET_ROLLBACK,
    Action.SECRET_PRUNE,
    Action.SECRET_EXPOSE,
    Action.CONFIG_CREATE,
    # No read of an auditor: people put into configs what belongs into secrets.
    Action.CONFIG_READ,
    Action.CONFIG_LABEL,
    Action.CONFIG_REMOVE,
    Action.SERVICE_CREATE,
    Action.SERVICE_UPDATE,
    Action.SERVICE_ROLLBACK,
    Action.SERVICE_REMOVE,
    # No read of an auditor either: a program may print anything.
    Action.SERVICE_LOGS,
    Action.ROLLOUT_PAUSE,
    Action.ROLLOUT_RESUME,
    Action.ROLLOUT_ROLLBACK,
    Action.HOOK_USE,
    Action.NODE_UPDATE,
    Action.NODE_REMOVE,
    Action.TOKEN_CREATE,
    Action.TOKEN_REMOVE,
    Action.OPERATOR_ADD,
    Action.OPERATOR_REMOVE,
    Action.MANAGER_REMOVE,
    Action.KEY_ROTATE,
    Action.STORE_MAINTAIN,
)
_DEPLOYER_LABELLED = (
    Action.SECRET_CREATE,
    Action.SECRET_INSPECT,
    Action.SECRET_WHERE,
    Action.SECRET_ROTATE,
    Action.SECRET_REMOVE,
    Action.SECRET_LABEL,
    Action.SECRET_UPDATE,
    Action.SECRET_ROLLBACK,
    Action.SECRET_PRUNE,
    Action.CONFIG_CREATE,
    Action.CONFIG_INSPECT,
    Action.CONFIG_READ,
    Action.CONFIG_LABEL,
    Action.CONFIG_REMOVE,
    Action.SERVICE_CREATE,
    Action.SERVICE_INSPECT,
    Action.SERVICE_UPDATE,
    Action.SERVICE_ROLLBACK,
    Action.SERVICE_REMOVE,
    Action.SERVICE_TASKS,
    Action.SERVICE_LOGS,
    Action.ROLLOUT_INSPECT,
    Action.ROLLOUT_PAUSE,
    Action.ROLLOUT_RESUME,
    Action.ROLLOUT_ROLLBACK,
)
_DEPLOYER_LISTED = (
    Action.SECRET_LIST,
    Action.CONFIG_LIST,
    Action.SERVICE_LIST,
    Action.ROLLOUT_LIST,
    Action.STATUS_READ,
    Action.EVENT_LIST,
)
_WAY_BACK = (
    # What root of a manager's machine needs when no operator can get in.
    Action.STATUS_READ,
    Action.AUDIT_READ,
    Action.OPERATOR_ADD,
    Action.OPERATOR_LIST,
    Action.OPERATOR_REMOVE,
    Action.OPERATOR_RENEW,
    Action.TOKEN_CREATE,
    Action.TOKEN_LIST,
    Action.TOKEN_REMOVE,
    Action.NODE_LIST,
    Action.NODE_REMOVE,
    Action.MANAGER_LIST,
    Action.MANAGER_REMOVE,
    Action.KEY_ROTATE,
    Action.STORE_MAINTAIN,
    Action.STORE_MIGRATE,
    Action.QUORUM_RECOVER,
)
_DUTIES = (
    Action.PLACEMENT_CHANGE,
    Action.ROLLOUT_UPDATE,
    Action.ROTATION_STEP,
    Action.SECRET_RETIRE,
    Action.SECRET_WARN,
    Action.RECORD_SWEEP,
    Action.CLUSTER_ALIVE,
    Action.AUDIT_TRIM,
    Action.AUDIT_EXPIRE,
    Action.KEY_DROP,
)
_BY_PROOF = (
    # Open to everyone: a token or an old key, checked by `enrolment`, is what admits.
    Action.NODE_JOIN,
    Action.NODE_RETURN,
    Action.OPERATOR_ENROL,
    Action.MANAGER_JOIN,
)

_TABLE: Final[Mapping[Role, Mapping[Action, _Reach]]] = {
    Role.ADMIN: {
        **dict.fromkeys((*_READS, *_OPERATOR_WRITES), _Reach.ALL),
        Action.OPERATOR_RENEW: _Reach.OWN,
    },
    Role.DEPLOYER: {
        **dict.fromkeys(_DEPLOYER_LABELLED, _Reach.LABELLED),
        **dict.fromkeys(_DEPLOYER_LISTED, _Reach.LISTED),
        Action.OPERATOR_RENEW: _Reach.OWN,
    },
    Role.AUDITOR: {
        **dict.fromkeys(_READS, _Reach.ALL),
        Action.OPERATOR_RENEW: _Reach.OWN,
    },
    Role.NODE: dict.fromkeys(
        (Action.SESSION_OPEN, Action.SECRET_ISSUE, Action.NODE_RENEW, Action.SERVICE_CERTIFICATE),
        _Reach.OWN,
    ),
    Role.MANAGER: {
        **dict.fromkeys((*_DUTIES, Action.MANAGER_GONE), _Reach.ALL),
        Action.MANAGER_RENEW: _Reach.OWN,
        # A joiner whose last answer was lost asks again, and is active by then.
        Action.MANAGER_ACTIVATE: _Reach.OWN,
    },
    Role.JOINING_MANAGER: {Action.MANAGER_ACTIVATE: _Reach.OWN},
    Role.LOCAL_ROOT: dict.fromkeys(_WAY_BACK, _Reach.ALL),
    Role.ANONYMOUS: dict.fromkeys(_BY_PROOF, _Reach.ALL),
}


def authorize(
    principal: Principal, action: Action, resource: Resource, now: datetime
) -> AuditEntry:
    """Return the entry that records the permission; it is committed with what it permits.

    Raises PermissionDenied: whatever the table does not name is denied.
    """
    reach = _TABLE[principal.role].get(action)
    if reach is None or not _reaches(principal, reach, resource):
        raise PermissionDenied(_denial(principal, action))
    return _entry(principal, action, resource, now, allowed=True)


def refusal(
    principal: Principal, action: Action, resource: Resource, now: datetime, detail: str = ""
) -> AuditEntry:
    """Return the entry that records a denial."""
    return _entry(principal, action, resource, now, allowed=False, detail=detail)


def in_reach(principal: Principal, labels: Mapping[str, str]) -> bool:
    """Return whether an object with these labels may be shown to, or used by, this operator."""
    if principal.role is not Role.DEPLOYER:
        return principal.role in {Role.ADMIN, Role.AUDITOR}
    return _carries(labels, principal.labels)


def _reaches(principal: Principal, reach: _Reach, resource: Resource) -> bool:
    match reach:
        case _Reach.ALL | _Reach.LISTED:
            return True
        case _Reach.LABELLED:
            return _carries(resource.labels, principal.labels)
        case _Reach.OWN:
            return (
                principal.identity is not None
                and resource.owner != ""
                and resource.owner == principal.identity.subject
            )


def _carries(labels: Mapping[str, str], required: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in required.items())


def _denial(principal: Principal, action: Action) -> str:
    """Return the message of a denial; nodes get the bare one."""
    match principal.role:
        case Role.ADMIN | Role.AUDITOR | Role.LOCAL_ROOT:
            return f"a caller of role {principal.role.value} may not do {action.value}"
        case Role.DEPLOYER:
            return (
                f"{action.value} is not permitted on this object, or there is no such object; a "
                "deployer reaches only what carries his labels"
            )
        case Role.NODE | Role.MANAGER | Role.JOINING_MANAGER | Role.ANONYMOUS:
            return PermissionDenied.default_message


def _entry(
    principal: Principal,
    action: Action,
    resource: Resource,
    now: datetime,
    *,
    allowed: bool,
    detail: str = "",
) -> AuditEntry:
    return AuditEntry(
        at=now.timestamp(),
        caller=principal.name,
        action=action.value,
        resource=str(resource),
        allowed=allowed,
        detail=detail,
    )
