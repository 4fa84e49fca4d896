"""The view's tables: the records of one kind, by id.

Owns how they are read. A kind of which one record failed its integrity check is poisoned: whatever
asks for it gets IntegrityError, because skipping a record (a revocation, say) is as bad as serving
a forged one.
"""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import msgspec

from cluster.protocol.errors import IntegrityError
from cluster.protocol.ids import SecretId, VersionNumber
from cluster.store.name_order import NameOrder
from cluster.store.records import Kind, Record, value_id

R = TypeVar("R", bound=Record)
R_co = TypeVar("R_co", bound=Record, covariant=True)


class Stored(msgspec.Struct, Generic[R_co], frozen=True, gc=False):
    """A record as it was read: what a later write is compared with."""

    record: R_co
    generation: int
    """How many times it was written, from the envelope."""
    mod_revision: int
    epoch: int = 0
    """The key epoch it is sealed under."""


class SealedValue(Record, frozen=True, kw_only=True):
    """Stands in a `Stored` for a secret value, which stays sealed."""

    kind = Kind.SECRET_VALUE


class Poisonable:
    """A collection that serves nothing once one of its records failed its integrity check."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._fault: str | None = None

    def poison(self, what: str) -> None:
        """Serve nothing any more."""
        self._fault = self._fault or what

    def check(self) -> None:
        """Raise IntegrityError if the collection is poisoned."""
        if self._fault is not None:
            raise IntegrityError(
                f"records of kind '{self.kind}' failed their integrity check ({self._fault}); "
                "see docs/how-to/integrity.md"
            )


class Table(Poisonable, Generic[R]):
    """The records of one kind, by id; iterates over ids. Every access may raise IntegrityError."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.rows: dict[str, Stored[R]] = {}
        """Written by `View.put` and `View.drop` alone."""
        self.order: NameOrder | None = None
        """Fed by them too, from the first `by_name` on."""

    def get(self, record_id: str) -> Stored[R] | None:
        """Return the record of an id."""
        self.check()
        return self.rows.get(record_id)

    def values(self) -> tuple[Stored[R], ...]:
        """Return all records, as they are now."""
        self.check()
        return tuple(self.rows.values())

    def by_name(self, after: str = "", prefix: str = "") -> Iterator[Stored[R]]:
        """Return the records whose name comes after `after` and starts with `prefix`, by name.

        For kinds that have names; to be used up before anything changes.
        """
        self.check()
        if self.order is None:
            self.order = NameOrder(stored.record for stored in self.rows.values())
        return (self.rows[record_id] for record_id in self.order.ids(after, prefix))

    def pick(self, record_ids: frozenset[str]) -> tuple[Stored[R], ...]:
        """Return the records of some ids that exist, in the order of their ids."""
        self.check()
        return tuple(self.rows[i] for i in sorted(record_ids) if i in self.rows)

    def __len__(self) -> int:
        self.check()
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        self.check()
        return iter(tuple(self.rows))

    def __contains__(self, record_id: object) -> bool:
        self.check()
        return record_id in self.rows


class SealedRow(msgspec.Struct, frozen=True, gc=False):
    """A secret value as it lies in the engine.

    `generation` and `epoch` are proven only when it is opened.
    """

    sealed: bytes
    generation: int
    mod_revision: int
    epoch: int

    def __repr__(self) -> str:
        return f"SealedRow(mod_revision={self.mod_revision})"


class SealedValues(Poisonable):
    """The secret values, sealed, by engine key: whoever asks for a value knows its name."""

    def __init__(self, blind: Callable[[str], bytes]) -> None:
        super().__init__(Kind.SECRET_VALUE)
        self._blind = blind
        self.rows: dict[bytes, SealedRow] = {}

    def get(self, record_id: str) -> Stored[SealedValue] | None:
        """Return what a `Remove` or `Require` needs, or None where there is no such value."""
        row = self.row(record_id)
        if row is None:
            return None
        return Stored(SealedValue(id=record_id), row.generation, row.mod_revision, row.epoch)

    def row(self, record_id: str) -> SealedRow | None:
        """Return the sealed value of `value_id()`."""
        self.check()
        return self.rows.get(self._blind(record_id))

    def version(self, secret_id: SecretId, number: VersionNumber) -> Stored[SealedValue] | None:
        """Return the value of a version, as `get` does."""
        return self.get(value_id(secret_id, number))

    def __len__(self) -> int:
        self.check()
        return len(self.rows)
