"""Preparation: turns the steps of a write into compares and operations on blinded keys.

Pure but for the future that the write is answered by. Decides the generation of what is written:
one above the state it replaces; for a record that is created, above everything this manager has
seen under its id (`history`).
"""

from asyncio import Future
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from cluster.engine.seam import Absent, Compare, Delete, Unchanged
from cluster.protocol.errors import InvariantViolation
from cluster.seal.keyring import Keyring
from cluster.store.batch import Pending, PlainPut
from cluster.store.history import RETURNING, History
from cluster.store.records import AuditEntry, Kind, Record, encode
from cluster.store.steps import Create, Remove, Replace, Require, RequireAbsent, Step, Write
from cluster.store.tables import Stored

AUDIT_GROWTH = 1.2
"""What padding may add to an entry's share of the audit link."""


@dataclass(slots=True)
class _Parts:
    """A write while its steps are taken in."""

    keyring: Keyring
    history: History
    revision: int
    compares: list[Compare] = field(default_factory=list)
    creates: set[bytes] = field(default_factory=set)
    puts: list[PlainPut] = field(default_factory=list)
    deletes: list[Delete] = field(default_factory=list)

    def take_all(self, steps: Iterable[Step]) -> tuple[tuple[bytes, int], ...]:
        """Take in some steps; return (blinded key, generation) of what they write."""
        puts, deletes = len(self.puts), len(self.deletes)
        for step in steps:
            self.take(step)
        written = [(put.key, put.generation) for put in self.puts[puts:]]
        written += [(delete.key, 0) for delete in self.deletes[deletes:]]
        return tuple(written)

    def take(self, step: Step) -> None:
        """Take in one step."""
        match step:
            case Create(record):
                key = self.key(record.kind, record.id)
                self.compares.append(Absent(key))
                self.creates.add(key)
                self.put(record, key, self.first_generation(record.kind, key))
            case Replace(stored, record):
                if (stored.record.kind, stored.record.id) != (record.kind, record.id):
                    raise InvariantViolation("a record is replaced by a state of its own")
                self.put(record, self.require(stored), stored.generation + 1)
            case Remove(stored):
                self.deletes.append(Delete(self.require(stored)))
            case Require(stored):
                self.require(stored)
            case RequireAbsent(kind, record_id):
                self.compares.append(Absent(self.key(kind, record_id)))

    def key(self, kind: Kind, record_id: str) -> bytes:
        return self.keyring.engine_key(kind, record_id)

    def require(self, stored: Stored[Record]) -> bytes:
        key = self.key(stored.record.kind, stored.record.id)
        self.compares.append(Unchanged(key, stored.mod_revision))
        return key

    def put(self, record: Record, key: bytes, generation: int) -> None:
        self.puts.append(PlainPut(record.kind, key, generation, encode(record)))

    def first_generation(self, kind: Kind, key: bytes) -> int:
        if kind not in RETURNING:
            return 1
        return max(self.revision, self.history.floor(key)) + 1


def prepare(
    write: Write, keyring: Keyring, history: History, revision: int, done: Future[int]
) -> Pending:
    """Return a write ready for the batcher.

    `revision` is what the view shows, `done` takes the answer.
    """
    parts = _Parts(keyring, history, revision)
    audit, untold = _told(write.audit, parts.take_all(write.steps))
    for share in write.shares:
        written = parts.take_all(share.steps)
        audit = (*audit, msgspec.structs.replace(share.audit, writes=written))
    keys = [put.key for put in parts.puts] + [delete.key for delete in parts.deletes]
    if len(set(keys)) != len(keys):
        raise InvariantViolation("a write changes each record once")
    return Pending(
        done=done,
        compares=tuple(dict.fromkeys(parts.compares)),
        guards=write.guards,
        creates=frozenset(parts.creates),
        puts=tuple(parts.puts),
        ready=tuple(parts.deletes),
        audit=audit,
        writes=untold,
        audit_bytes=audit_size(audit, untold),
    )


def audit_size(audit: tuple[AuditEntry, ...], writes: tuple[tuple[bytes, int], ...]) -> int:
    """Return how many bytes of an audit link a write's part takes at most."""
    return int(len(msgspec.msgpack.encode((audit, writes))) * AUDIT_GROWTH)


def _told(
    audit: tuple[AuditEntry, ...], written: tuple[tuple[bytes, int], ...]
) -> tuple[tuple[AuditEntry, ...], tuple[tuple[bytes, int], ...]]:
    """Give what was written to the first entry; without an entry the link itself tells it."""
    if not audit:
        return (), written
    return (msgspec.structs.replace(audit[0], writes=written), *audit[1:]), ()
