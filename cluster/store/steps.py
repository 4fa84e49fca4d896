"""What a write consists of: steps on records, each with the condition it was decided under.

Pure values; `sealed_store` turns them into compares and sealed operations.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from cluster.engine.seam import Compare
from cluster.store.records import AuditEntry, Kind, Record
from cluster.store.view import Stored


@dataclass(frozen=True, slots=True)
class Create:
    """Writes a record that must not exist yet."""

    record: Record


@dataclass(frozen=True, slots=True)
class Replace:
    """Writes a new state of a record that is unchanged since it was read."""

    stored: Stored[Record]
    record: Record


@dataclass(frozen=True, slots=True)
class Remove:
    """Removes a record that is unchanged since it was read."""

    stored: Stored[Record]


@dataclass(frozen=True, slots=True)
class Require:
    """Demands that a record which the decision rests on is unchanged since it was read."""

    stored: Stored[Record]


@dataclass(frozen=True, slots=True)
class RequireAbsent:
    """Demands that a record does not exist."""

    kind: Kind
    id: str


Step = Create | Replace | Remove | Require | RequireAbsent


@dataclass(frozen=True, slots=True)
class Share:
    """Steps of a write with the audit entry that tells of these and no others."""

    steps: tuple[Step, ...]
    audit: AuditEntry


@dataclass(frozen=True, slots=True)
class Write:
    """Steps that apply together or not at all, with the audit entries that tell of them.

    `guards`: compares of the duties under which it was decided (`Leadership.guard`). A write
    without steps records its audit entries alone: that is how a refusal is audited. Of several
    entries the first tells of all `steps`.
    """

    steps: tuple[Step, ...] = ()
    audit: tuple[AuditEntry, ...] = ()
    guards: tuple[Compare, ...] = ()
    shares: tuple[Share, ...] = ()
    """What several callers do in one write: each is told of by its own entry."""

    @property
    def all_steps(self) -> Iterator[Step]:
        """The steps, those of the shares included."""
        return chain(self.steps, *(share.steps for share in self.shares))
