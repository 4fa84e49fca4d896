"""Records of rotations that the cluster carries out by itself, step by step."""

from enum import StrEnum

from cluster.protocol.ids import RolloutId, SecretId, VersionNumber
from cluster.store.records.kinds import Kind, Record


class RotationStep(StrEnum):
    """What a rotation does next."""

    GENERATE = "generate"
    PREPARE = "prepare"
    PUSH = "push"
    CONFIRM = "confirm"
    RETIRE = "retire"
    REVERT = "revert"
    """The third party did not confirm: the version before becomes primary again."""
    ROLLBACK = "rollback"
    """The third party takes the new credential back."""
    DONE = "done"
    FAILED = "failed"


class RotationRecord(Record, frozen=True, kw_only=True):
    """One rotation; id is the operation id that hooks are told, the same in every attempt.

    Until it is pushed, the new version is known to this record alone: nothing can refer to it, and
    nothing issues it.
    """

    kind = Kind.ROTATION
    secret_id: SecretId
    name: str
    """The secret's."""
    generator: str
    length: int = 0
    hook: str = ""
    previous: VersionNumber
    """The version that was primary when it began."""
    version: VersionNumber | None = None
    """The new one, once its value is stored."""
    size: int = 0
    step: RotationStep = RotationStep.GENERATE
    attempts: int = 0
    """How often the hook was called in this step."""
    next_try_at: float = 0.0
    error: str = ""
    """Why it failed, or why the last attempt did; never what a hook printed."""
    rollout: RolloutId | None = None
    """What brings the new version out."""
    started_at: float
    started_by: str
    finished_at: float | None = None
    request_id: str = ""
    """Of the request that asked for it; its own id where none did. The audit has it too."""
