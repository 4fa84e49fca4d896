"""Records of secrets and configs: metadata here, values there, never both in one type.

A config is delivered as a secret is, and may be read back. It is a kind of its own, so that what
asks for configs finds no secret, and what asks for secrets no config.
"""

from enum import StrEnum

import msgspec

from cluster.protocol.ids import SecretId, VersionNumber
from cluster.store.records.kinds import Kind, Record


class VersionState(StrEnum):
    """The life of a secret version. Exactly one version is primary."""

    PRIMARY = "primary"
    ACTIVE = "active"
    RETIRED = "retired"


class SecretVersion(msgspec.Struct, frozen=True):
    """A version's metadata; there is no field that could hold a value."""

    number: VersionNumber
    state: VersionState
    size: int
    created_at: float
    created_by: str
    retire_at: float | None = None
    """When an active version stops being issued; None: as long as something needs it."""
    expires_at: float | None = None
    """When the credential itself stops working, as the operator said; warned of, never enforced."""
    warned: str = ""
    """What was told of `expires_at` already: "expiring", then "expired"."""
    destroyed: bool = False
    """Whether the value is gone: a rollback cannot bring it back."""
    left_turn: int = 0
    """Which change of the primary it was left in, counted from 1; 0: it is primary or never was."""
    taken_back: bool = False
    """Whether a rollout or a rotation took it back: it is no version to go back to by default."""
    exposed_at: float | None = None
    """When a node that held it was evicted as compromised: it must be rotated while it is live."""
    exposed_by: str = ""
    """Name of that node."""
    request_id: str = ""
    """Of the request that made it, or made it primary again; empty: a manager did by itself, or it
    is issued no more."""


class RotationSchedule(msgspec.Struct, frozen=True):
    """How a secret makes its next version by itself."""

    every_s: float
    """0: only when it is asked to."""
    generator: str
    """"password", "hex", "rsa" or "ed25519"."""
    length: int = 0
    """Characters of a password or hex, bits of an rsa key; 0: the generator's own."""
    hook: str = ""
    """Of the manager's configuration: changes the credential at the third party first."""
    next_at: float | None = None
    """When the next one begins; None: when somebody asks for it."""


class VersionedRecord(Record, frozen=True, kw_only=True):
    """What a reference may mean: metadata of something delivered; id is a SecretId."""

    name: str
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    versions: tuple[SecretVersion, ...]
    created_at: float
    updated_at: float

    @property
    def primary(self) -> SecretVersion:
        """The one primary version."""
        return next(v for v in self.versions if v.state is VersionState.PRIMARY)

    @property
    def before_primary(self) -> SecretVersion | None:
        """The version that was primary before the primary: see `before`."""
        return self.before(self.primary)

    def before(self, version: SecretVersion) -> SecretVersion | None:
        """Return the version that was primary before `version`, whatever became of it.

        A later one that was rolled back from does not count.
        """
        earlier = (
            one
            for one in self.versions
            if one.left_turn
            and one.number < version.number
            and (one.left_turn < version.left_turn or not version.left_turn)
        )
        return max(earlier, key=lambda one: one.left_turn, default=None)


class SecretRecord(VersionedRecord, frozen=True, kw_only=True):
    """A secret's metadata. Numbers are never reused."""

    kind = Kind.SECRET
    next_number: int
    keep: int = 1
    """Retired versions whose values stay, for a rollback."""
    overlap_s: float = 0.0
    """How long a rotation leaves the version before active, where it does not say itself."""
    schedule: RotationSchedule | None = None


class ConfigRecord(VersionedRecord, frozen=True, kw_only=True):
    """A config's metadata. It has one version, for ever: a new content is a new config."""

    kind = Kind.CONFIG


class SecretValueRecord(Record, frozen=True, kw_only=True):
    """The value of one version of a secret or a config; id is `value_id()`.

    Stays sealed in memory until it is issued or read back.
    """

    kind = Kind.SECRET_VALUE
    value: bytes

    def __repr__(self) -> str:
        return f"SecretValueRecord(id={self.id!r})"


def value_id(secret_id: SecretId, version: VersionNumber) -> str:
    """Return the record id of a version's value."""
    return f"{secret_id}/{version}"
