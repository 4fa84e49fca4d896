"""The seam every storage engine stands behind.

An engine is a revisioned key-value store with compare-and-set transactions and an ordered watch:
what etcd offers, and what SQLite is made to offer. It sees only blinded keys and ciphertext. One
conformance suite (tests/unit/engine/conformance.py) holds every engine to the words here. Sources:
ADR 0002, etcd's API guarantees.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

MAX_OPERATIONS = 128
"""Operations (the request-id record included) and compares in one transaction."""
MAX_TRANSACTION_BYTES = 1_400_000
"""Keys and values of one transaction together."""
MAX_VALUE_BYTES = 1_000_000
MAX_KEY_BYTES = 512
PAGE_SIZE = 1_000
REQUEST_ID_SIZE = 16
REQUEST_TTL_S = 3_600
"""How long a request id is remembered, at least."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored key: `create_revision` and `mod_revision` are engine revisions, >= 1."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Absent:
    """Holds when the key does not exist."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Holds when the key exists and was last modified at `mod_revision`."""

    key: bytes
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Held(Unchanged):
    """Holds while the campaign named by `key` is held as it was at `mod_revision`.

    Made by `Leadership.guard` alone. Campaigns have a keyspace of their own: `key` is no key of the
    store.
    """


Compare = Absent | Unchanged | Held


@dataclass(frozen=True, slots=True)
class Put:
    """Writes a value."""

    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Removes a key; removing an absent key is no error."""

    key: bytes


Operation = Put | Delete


@dataclass(frozen=True, slots=True)
class Committed:
    """The transaction is durable at `revision`."""

    revision: int


@dataclass(frozen=True, slots=True)
class CompareFailed:
    """Nothing was applied; `current[i]`: what `compares[i]` met (None: absent), at one revision."""

    current: tuple[Entry | None, ...]


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    """It may be applied, now or later. Send the same transaction again, or `cancel` it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The request id can never commit any more."""


Outcome = Committed | CompareFailed | OutcomeUnknown


@dataclass(frozen=True, slots=True)
class Page:
    """Entries in key order as of `revision`; ask with `after=entries[-1].key` while `more`.

    With `more` there is at least one entry. What is asked for then may be an empty page: whether
    anything is left in a long list is only known at its end.
    """

    entries: tuple[Entry, ...]
    revision: int
    more: bool


@dataclass(frozen=True, slots=True)
class Change:
    """One key's change: `entry.value` is empty and `deleted` is true for a removal."""

    entry: Entry
    deleted: bool


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """All changes of one revision; batches come in revision order, each revision once."""

    revision: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class EngineMember:
    """A member of the engine's own consensus group."""

    member_id: int
    name: str
    peer_address: str
    """host:port; empty for SQLite."""
    is_learner: bool


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What an engine says about itself, from its local view."""

    kind: str
    """"sqlite" or "etcd"."""
    version: str
    members: tuple[EngineMember, ...]
    leader: str
    """Name of the leading member, empty while there is none."""
    revision: int
    size_bytes: int
    quota_bytes: int
    alarms: tuple[str, ...]
    cluster_id: str = ""
    """What tells one etcd cluster from another, in hex; empty for SQLite and while unknown."""


class Leadership(Protocol):
    """A held campaign: `key` exists unchanged at `revision` for as long as the duty is held.

    Every write of the duty holder puts `guard` among its compares, so a holder that was replaced
    cannot write.
    """

    @property
    def guard(self) -> Compare:
        """The compare that fails as soon as the duty is lost."""
        ...

    async def lost(self) -> None:
        """Return when the duty is certainly or possibly lost."""
        ...

    async def resign(self) -> None:
        """Give the duty up at once."""
        ...


class Engine(Protocol):
    """A revisioned, transactional, watchable key-value store.

    Keys and values are bytes. Every method may raise NoQuorum or Unavailable (reads), never for
    `transact`, whose failures are values. Definite refusals raise: TransactionTooLarge,
    StorageFull.
    """

    async def transact(
        self, request_id: bytes, compares: Sequence[Compare], operations: Sequence[Operation]
    ) -> Outcome:
        """Apply all operations at one revision if every compare holds.

        `request_id`: 16 bytes, fresh for each logical transaction. Sending the same id again is
        safe at any time: if it was applied, the answer is Committed with the revision of the first
        time, and nothing is applied twice. A cancelled id answers CompareFailed(()). One operation
        per key. Transient failures are resent inside, under the same id, for a few seconds; then
        the answer is OutcomeUnknown.
        """
        ...

    async def cancel(self, request_id: bytes) -> Committed | Cancelled | OutcomeUnknown:
        """Settle a request id for good: applied, or never to be applied after this."""
        ...

    async def read(self, key: bytes, *, linearizable: bool = True) -> Entry | None:
        """Return the entry of a key, or None."""
        ...

    async def list_page(
        self,
        prefix: bytes,
        *,
        after: bytes | None = None,
        at_revision: int | None = None,
        limit: int = PAGE_SIZE,
        linearizable: bool = True,
    ) -> Page:
        """Return up to `limit` entries under `prefix`, in key order, after key `after`.

        Pass the first page's revision as `at_revision` to see one consistent state. Raises
        Compacted.
        """
        ...

    def watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[WatchBatch]:
        """Yield every change under `prefix` from `from_revision` (>= 1) on: whole, in order, once.

        Reconnects by itself. Raises Compacted when history was removed: list again.
        """
        ...

    async def barrier(self) -> int:
        """Return a revision at or after every write acknowledged anywhere before the call."""
        ...

    async def campaign(self, name: str, holder: str, ttl_s: float) -> Leadership:
        """Wait until this process holds the duty `name`, and return it.

        Keeps it alive until resigned or lost. `holder` is stored for others to see (see `holders`).
        """
        ...

    async def holders(self) -> dict[str, str]:
        """Return who holds which duty now: name -> holder."""
        ...

    async def compact(self, revision: int) -> None:
        """Forget history below `revision`."""
        ...

    async def recover_space(self) -> None:
        """Free space after the quota was reached and accept writes again."""
        ...

    async def status(self) -> EngineStatus:
        """Return the local view of the engine; never waits for a quorum."""
        ...

    async def close(self) -> None:
        """Let go of every resource; outstanding calls fail."""
        ...
