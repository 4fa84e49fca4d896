"""Every error that crosses an edge: one tree, one stable code each.

Cores raise these and know nothing of HTTP; `cluster.api.error_map` and `cluster.cli.output`
translate once, by the class fields. Messages are lower case, without a full stop, say what to do
next, and never carry a value.
"""

from typing import ClassVar


class ClusterError(Exception):
    """The root of the tree; never raised itself."""

    code: ClassVar[str] = "cluster_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    default_message: ClassVar[str] = "the request failed"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.default_message)

    @property
    def message(self) -> str:
        """What went wrong and what to do next."""
        return str(self.args[0])


class InvalidRequest(ClusterError):
    """The request can never succeed as it is."""

    code = "invalid_request"
    status = 400
    default_message = "the request is not valid"


class InvalidName(InvalidRequest):
    """A name breaks the naming rules."""

    code = "invalid_name"
    default_message = (
        "names take 1 to 64 letters, digits, '-', '_' and '.', "
        "and start and end with a letter or digit"
    )


class InvalidReference(InvalidRequest):
    """A reference is not usable (unknown secret or config, bad target, overlapping targets)."""

    code = "invalid_reference"


class PayloadTooLarge(InvalidRequest):
    """A body or value is larger than its limit."""

    code = "payload_too_large"
    status = 413
    default_message = "the value is too large; a value takes 1 to 511,999 bytes"


class MalformedJoinToken(InvalidRequest):
    """The text is not a join token."""

    code = "malformed_join_token"
    default_message = "this is not a join token; copy it whole, it starts with SRTKN-1-"


class MalformedMessage(InvalidRequest):
    """A wire message cannot be decoded."""

    code = "malformed_message"
    default_message = "the message is malformed"


class TransactionTooLarge(InvalidRequest):
    """A transaction is over the engine's limits."""

    code = "transaction_too_large"
    default_message = "the transaction is too large for the storage engine"


class Unauthenticated(ClusterError):
    """The caller has not proven who he is."""

    code = "unauthenticated"
    status = 401
    default_message = (
        "no accepted certificate; run `strongroom operator enrol` or join the node again"
    )


class PermissionDenied(ClusterError):
    """Not allowed. Towards agents the same answer stands for "not yours" and "not there"."""

    code = "permission_denied"
    status = 403
    default_message = "not permitted"


class TokenRefused(PermissionDenied):
    """A join token does not admit this caller; reads the same for every reason."""

    code = "token_refused"
    default_message = (
        "the join token is not accepted; ask for a new one with `strongroom token create`"
    )


class Evicted(PermissionDenied):
    """The node was removed; its agent wipes what it holds."""

    code = "evicted"
    default_message = (
        "this node was removed from the cluster; wipe it and join again with a new token"
    )


class NotFound(ClusterError):
    """What was asked for does not exist."""

    code = "not_found"
    status = 404
    default_message = "not found"


class SecretNotFound(NotFound):
    """No secret of that name."""

    code = "secret_not_found"


class ConfigNotFound(NotFound):
    """No config of that name or id."""

    code = "config_not_found"


class VersionNotFound(NotFound):
    """The secret has no such version."""

    code = "version_not_found"


class ServiceNotFound(NotFound):
    """No service of that name."""

    code = "service_not_found"


class NodeNotFound(NotFound):
    """No node of that name or id."""

    code = "node_not_found"


class HistoryGone(NotFound):
    """Events that far back are not kept any more: list, and follow from there."""

    code = "history_gone"
    status = 410
    default_message = (
        "what happened that long ago cannot be read any more; look at how things stand, "
        "and follow from now"
    )


class Conflict(ClusterError):
    """The state does not allow it now."""

    code = "conflict"
    status = 409
    default_message = "the state changed meanwhile; look again and retry"


class AlreadyExists(Conflict):
    """The name is taken."""

    code = "already_exists"

    def __init__(self, message: str | None = None, *, revision: int = 0) -> None:
        super().__init__(message)
        self.revision = revision
        """Revision at which the record that is in the way was written, if the store found it there;
        else 0."""


class StaleVersion(Conflict):
    """The record was changed since it was read."""

    code = "stale_version"
    default_message = "the object was changed since you read it; read it again and retry"

    def __init__(self, message: str | None = None, *, revision: int = 0) -> None:
        super().__init__(message)
        self.revision = revision
        """A view that has reached this revision shows the change; 0 where no store was asked."""


class SecretInUse(Conflict):
    """Something still refers to the secret."""

    code = "secret_in_use"


class ConfigInUse(Conflict):
    """Something still refers to the config."""

    code = "config_in_use"


class RequestIdReused(Conflict):
    """A request id came back with another caller or another body."""

    code = "request_id_reused"
    default_message = "this request id was used for another request; send a fresh one"


class WrongEngine(Conflict):
    """The engine in use cannot do this."""

    code = "wrong_engine"


class MountRefused(Conflict):
    """A directory is not proven to keep secrets in memory only; the agent writes nothing there."""

    code = "mount_refused"


class TooManyRequests(ClusterError):
    """The caller is over his limit."""

    code = "too_many_requests"
    status = 429
    retryable = True
    default_message = "too many requests; slow down and retry"


class Unavailable(ClusterError):
    """It may work later or elsewhere."""

    code = "unavailable"
    status = 503
    retryable = True
    default_message = "the manager cannot answer now; retry, or ask another manager"


class NoQuorum(Unavailable):
    """No majority of managers can be reached."""

    code = "no_quorum"
    default_message = (
        "no majority of managers is reachable; see `strongroom status` and start or unlock managers"
    )


class Locked(Unavailable):
    """The manager has not been unlocked since it started."""

    code = "locked"
    default_message = "the manager is locked; run `strongroom unlock` on it"


class OutcomeUnknown(Unavailable):
    """The write may or may not have happened."""

    code = "outcome_unknown"
    default_message = "the outcome is not known; send the same request id again to learn it"


class HookFailed(Unavailable):
    """A hook is not usable, or did not do what it was asked."""

    code = "hook_failed"
    default_message = "the hook failed; look at it on the manager"


class SessionExpired(Unavailable):
    """The agent's session ended; it opens a new one."""

    code = "session_expired"
    default_message = "the session ended; open a new one"


class StorageFull(Unavailable):
    """The engine refuses writes because its quota or disk is full."""

    code = "storage_full"
    default_message = (
        "the storage engine is full; free space and run `strongroom store recover-space`"
    )


class Compacted(Unavailable):
    """History below a revision is gone; list again."""

    code = "compacted"
    default_message = "the history asked for was compacted; list again"

    def __init__(self, revision: int) -> None:
        super().__init__(f"history below revision {revision} was compacted; list again")
        self.revision = revision


class IntegrityError(ClusterError):
    """Stored data is not what was written: stop, never retry, never skip."""

    code = "integrity_error"
    default_message = "stored data failed its integrity check; see docs/how-to/integrity.md"


class OpenFailed(IntegrityError):
    """Authenticated decryption failed. Every reason reads the same."""

    code = "open_failed"
    default_message = "a sealed record cannot be opened"


class StoreRolledBack(IntegrityError):
    """A record or a revision went back."""

    code = "store_rolled_back"
    default_message = "a stored record is older than one already seen"


class AuditChainBroken(IntegrityError):
    """The audit chain does not verify."""

    code = "audit_chain_broken"
    default_message = "the audit chain does not verify"


class InternalFailure(ClusterError):
    """The manager met something it has no answer for; its log names the place."""

    code = "internal"
    default_message = "the manager failed; its log names the place"


class InvariantViolation(RuntimeError):
    """Our own state is impossible: a bug. The process ends."""


def error_of(code: object, message: object) -> ClusterError | None:
    """Return the error that an answer's `code` and `message` name, or None for an unknown code."""
    kinds: list[type[ClusterError]] = list(ClusterError.__subclasses__())
    while kinds:
        kind = kinds.pop()
        if kind.code == code:
            text = message if isinstance(message, str) and message else kind.default_message
            # Not by the class's own constructor: some take what only the manager knows.
            return kind.__new__(kind, text)
        kinds.extend(kind.__subclasses__())
    return None
