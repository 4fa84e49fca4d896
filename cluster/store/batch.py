"""A batch: concurrent writes merged into one engine transaction, and what each met when it failed.

Pure: which writes go together, and whose compares were violated. `batcher` sends it.
"""

from asyncio import Future
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from cluster.engine.seam import (
    MAX_OPERATIONS,
    MAX_TRANSACTION_BYTES,
    Absent,
    Compare,
    Entry,
    Operation,
    Put,
)
from cluster.protocol.errors import AlreadyExists, ClusterError, Conflict, StaleVersion
from cluster.seal.envelope import seal_record, sealed_size
from cluster.seal.keyring import Keyring
from cluster.store.records import AuditEntry
from cluster.system import Entropy

MAX_WRITES: Final = 40
LARGE_BYTES: Final = 256 * 1024
"""A batch ends at this size; a larger write goes alone."""
OWN_OPERATIONS: Final = 3
"""Kept free of the engine's limit: request id, audit link, registration; and as many compares."""
AUDIT_BYTES: Final = 16 * 1024
"""Kept free of the engine's limit for keys, registration and padding of the audit link."""


class PlainPut(msgspec.Struct, frozen=True, gc=False):
    """A record to be sealed and written."""

    kind: str
    key: bytes
    generation: int
    plaintext: bytes

    def __repr__(self) -> str:
        return f"PlainPut(kind={self.kind!r}, generation={self.generation})"


@dataclass(slots=True, eq=False)
class Pending:
    """A write that waits for its batch."""

    done: Future[int]
    """Takes the revision, or why not."""
    compares: tuple[Compare, ...]
    guards: tuple[Compare, ...]
    creates: frozenset[bytes]
    """Keys that must be absent because the write creates them."""
    puts: tuple[PlainPut, ...]
    ready: tuple[Operation, ...]
    """Removals, and what is not sealed here (the wrapped keyring)."""
    audit: tuple[AuditEntry, ...]
    writes: tuple[tuple[bytes, int], ...]
    """(blinded key, generation) for the audit link, where no entry carries them."""
    audit_bytes: int
    size: int = field(init=False)
    """Bytes it takes in a transaction, its part of the audit link included."""
    written: frozenset[bytes] = field(init=False)
    """The keys it writes or removes."""
    _sealed: tuple[Put, ...] = ()
    _sealed_by: Keyring | None = None

    def __post_init__(self) -> None:
        self.written = frozenset([part.key for part in (*self.puts, *self.ready)])
        size = self.audit_bytes + sum(map(len, self.written))
        for put in self.puts:
            size += sealed_size(len(put.plaintext))
        for operation in self.ready:
            size += len(operation.value) if isinstance(operation, Put) else 0
        for compare in (*self.compares, *self.guards):
            size += len(compare.key)
        self.size = size

    def touches(self, keys: set[bytes]) -> bool:
        """Return whether it writes, removes or compares one of these keys."""
        return not keys.isdisjoint(self.written) or any(
            compare.key in keys for compare in self.compares
        )

    def operations(self, keyring: Keyring, entropy: Entropy) -> tuple[Operation, ...]:
        """Return the operations, sealed once per keyring however often the write is merged."""
        if self._sealed_by is not keyring:
            self._sealed = tuple(
                [
                    Put(
                        put.key,
                        seal_record(
                            keyring,
                            kind=put.kind,
                            engine_key=put.key,
                            generation=put.generation,
                            plaintext=put.plaintext,
                            entropy=entropy,
                        ),
                    )
                    for put in self.puts
                ]
            )
            self._sealed_by = keyring
        return (*self._sealed, *self.ready)

    def sealed(self, place: int) -> bytes | None:
        """Return what the put at a place was sealed as last, None before it was."""
        return self._sealed[place].value if self._sealed else None

    @property
    def fits_alone(self) -> bool:
        """Whether an engine can commit it at all."""
        counts = (len(self.compares) + len(self.guards), len(self.puts) + len(self.ready))
        return (
            max(counts) + OWN_OPERATIONS < MAX_OPERATIONS
            and self.size + AUDIT_BYTES <= MAX_TRANSACTION_BYTES
        )

    def fail(self, error: ClusterError) -> None:
        """Tell the writer why not, if he still waits."""
        if not self.done.done():
            self.done.set_exception(error)

    def succeed(self, revision: int) -> None:
        """Tell the writer the revision, if he still waits."""
        if not self.done.done():
            self.done.set_result(revision)

    def violated(self, met: dict[Compare, Entry | None]) -> ClusterError | None:
        """Return the conflict with what its compares met, or None if all hold.

        A conflict's `revision` is the highest that was met, 0 if all that was met is a removal.
        """
        broken = [c for c in (*self.compares, *self.guards) if not holds(c, met[c])]
        if not broken:
            return None
        if any(compare in self.guards for compare in broken):
            return Conflict("this manager no longer holds the duty; another one carries on")
        entries = [met[compare] for compare in broken]
        revision = max((entry.mod_revision for entry in entries if entry), default=0)
        if any(compare.key in self.creates for compare in broken):
            return AlreadyExists("it exists already; choose another name", revision=revision)
        return StaleVersion(revision=revision)


def holds(compare: Compare, entry: Entry | None) -> bool:
    """Return whether a compare holds for what it met."""
    if isinstance(compare, Absent):
        return entry is None
    return entry is not None and entry.mod_revision == compare.mod_revision


def take(queue: deque[Pending]) -> list[Pending]:
    """Remove the writes of the next batch from the queue, in its order.

    Writes whose caller gave up are dropped. The batch ends before a write that touches a key
    written earlier in it: its compare was made against a state that the batch itself replaces, and
    a key takes one operation.
    """
    batch: list[Pending] = []
    written: set[bytes] = set()
    compares = operations = size = 0
    while queue and len(batch) < MAX_WRITES:
        write = queue[0]
        if write.done.done():
            queue.popleft()
            continue
        compares += len(write.compares) + len(write.guards)
        operations += len(write.puts) + len(write.ready)
        size += write.size
        full = max(compares, operations) + OWN_OPERATIONS >= MAX_OPERATIONS or size > LARGE_BYTES
        if batch and (full or write.touches(written)):
            break
        batch.append(queue.popleft())
        written |= write.written
    return batch


def distinct(compares: Sequence[Compare]) -> tuple[Compare, ...]:
    """Return each compare once, in order."""
    return tuple(dict.fromkeys(compares))
