"""Records of secrets: metadata here, values there, never both in one type."""

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


class SecretRecord(Record, frozen=True, kw_only=True):
    """A secret's metadata; id is its SecretId. Numbers are never reused."""

    kind = Kind.SECRET
    name: str
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    versions: tuple[SecretVersion, ...]
    next_number: int
    created_at: float
    updated_at: float

    @property
    def primary(self) -> SecretVersion:
        """The one primary version."""
        return next(v for v in self.versions if v.state is VersionState.PRIMARY)


class SecretValueRecord(Record, frozen=True, kw_only=True):
    """The value of one version; id is `value_id()`. Stays sealed in memory until it is issued."""

    kind = Kind.SECRET_VALUE
    value: bytes

    def __repr__(self) -> str:
        return f"SecretValueRecord(id={self.id!r})"


def value_id(secret_id: SecretId, version: VersionNumber) -> str:
    """Return the record id of a version's value."""
    return f"{secret_id}/{version}"
