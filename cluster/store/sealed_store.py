"""The sealed store: typed records over a storage engine that sees only ciphertext under blinded
keys.

Owns the composition: `ingest` feeds the view, `batcher` commits, `barrier` orders reads. What a
caller decides, it decides from `view`; what it commits carries the conditions it was decided under,
so two managers can decide at once. Source: DESIGN sections 3 and 4, ADR 0004.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Self

from cluster.engine.seam import Engine, Put
from cluster.protocol.errors import (
    AlreadyExists,
    IntegrityError,
    InvariantViolation,
    Locked,
    OpenFailed,
    OutcomeUnknown,
    StaleVersion,
    Unavailable,
    VersionNotFound,
)
from cluster.protocol.ids import Incarnation, ManagerId, Revision, SecretId, VersionNumber
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.envelope import open_record
from cluster.seal.keyring import Keyring
from cluster.store.barrier import Barrier, OwnCommits
from cluster.store.batch import Pending
from cluster.store.batcher import Batcher
from cluster.store.history import History
from cluster.store.ingest import Ingest
from cluster.store.key_epochs import bootstrap_store, load_wrapped_keyring, reseal
from cluster.store.keyring_cell import KEYRING_KEY, KeyringCell
from cluster.store.own_writes import OwnWrites
from cluster.store.preparation import audit_size, prepare
from cluster.store.records import (
    CLUSTER_ID,
    AuditEntry,
    ClusterRecord,
    Kind,
    SecretValueRecord,
    decode,
    value_id,
)
from cluster.store.steps import Create, Remove, Replace, Require, RequireAbsent, Share, Step, Write
from cluster.store.tables import SealedRow
from cluster.store.view import IntegrityFault, View
from cluster.system import Clock, Entropy

__all__ = [
    "Create",
    "Remove",
    "Replace",
    "Require",
    "RequireAbsent",
    "SealedStore",
    "Share",
    "Step",
    "Write",
    "bootstrap_store",
    "load_wrapped_keyring",
    "reseal",
]

APPLY_S: Final = 10.0
"""How long a commit waits for this manager's own view."""
UPDATE_ATTEMPTS: Final = 64
"""Attempts of an update in all. Each that fails let another write through, so this many writers of
one record come through together, on however many managers."""
FREE_ATTEMPTS: Final = 2
"""Attempts of an update before it takes turns with others."""


class SealedStore:
    """A manager's store: `open` makes it, `close` ends it, `failure` tells what ended it."""

    def __init__(
        self,
        engine: Engine,
        cell: KeyringCell,
        *,
        manager_id: ManagerId,
        boot: str,
        clock: Clock,
        entropy: Entropy,
        on_fault: Callable[[IntegrityFault], None] | None,
    ) -> None:
        self.engine = engine
        self._cell = cell
        self._entropy = entropy
        self._history = History()
        self.view = View(self._blind_value, on_fault)
        self._own = OwnWrites()
        self._ingest = Ingest(engine, cell, self.view, self._history, self._own)
        self._commits = OwnCommits(self.view, clock)
        self._batcher = Batcher(
            engine,
            cell,
            self._commits,
            manager_id=manager_id,
            boot=boot,
            clock=clock,
            entropy=entropy,
        )
        tick_key = cell.keyring.stream_key(f"tick/{manager_id}", 0)
        self._barrier = Barrier(engine, self.view, self._commits, tick_key, entropy)
        self._turn = asyncio.Lock()
        self._running: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        engine: Engine,
        keyring: Keyring,
        *,
        root_key: SecretBytes | None = None,
        manager_id: ManagerId,
        boot: str,
        clock: Clock,
        entropy: Entropy,
        on_fault: Callable[[IntegrityFault], None] | None = None,
    ) -> Self:
        """Return a store whose view shows every record at one revision and follows the engine from
        there.

        `boot`: unique to this start; audit chains are named by it. `root_key` opens a keyring that
        another manager stores later. Raises Unavailable if the engine cannot be read. Records that
        fail their check are in `view.faults`.
        """
        store = cls(
            engine,
            KeyringCell(keyring, root_key),
            manager_id=manager_id,
            boot=boot,
            clock=clock,
            entropy=entropy,
            on_fault=on_fault,
        )
        await store._ingest.load()
        store._running = asyncio.create_task(store._run(), name="store")
        return store

    async def close(self) -> None:
        """End the watch and the lanes, not the engine; writes in flight get OutcomeUnknown."""
        await self._barrier.close()
        if self._running is not None:
            self._running.cancel()
            # What ended it earlier is `failure`'s to tell.
            await asyncio.wait([self._running])
        self._ingest.end()

    async def failure(self) -> None:
        """Raise what ended the store, when it ends by itself; for the owner to wait on."""
        if self._running is not None:
            await asyncio.shield(self._running)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self._ingest.follow(), name="store-watch")
            parts.create_task(self._batcher.run(), name="store-batcher")

    # --- reading --------------------------------------------------------------------------------

    @property
    def cluster(self) -> ClusterRecord:
        """The record about the whole cluster; raises Unavailable in an uninitialised store."""
        stored = self.view.cluster.get(CLUSTER_ID)
        if stored is None:
            raise Unavailable("the store is not initialised; run `strongroom init`")
        return stored.record

    @property
    def incarnation(self) -> Incarnation:
        """The store's present life."""
        return self.cluster.incarnation

    @property
    def keyring(self) -> Keyring:
        """The keyring in force."""
        return self._cell.keyring

    def revision(self, number: int) -> Revision:
        """Return an engine revision as it appears on the wire."""
        return Revision(self.incarnation, number)

    def generations(self) -> dict[bytes, tuple[Kind, int]]:
        """Return kind and generation of every record and value in the view, by engine key."""
        return self._ingest.generations()

    def kind_of(self, key: bytes) -> Kind | None:
        """Return the kind whose keyspace an engine key lies in."""
        return self._ingest.kind_of(key)

    def moment(self) -> int:
        """Return a mark of now, for `barrier`."""
        return self._commits.sent

    async def barrier(self, since: int | None = None) -> int:
        """Return a revision behind all writes acknowledged anywhere before; the view shows it.

        `since`: a `moment` at which the caller began; what was acknowledged before that is enough
        for him. A commit sent from here since then spares the question.
        """
        return await self._barrier.wait(since)

    async def catch_up(self, seen: Revision) -> None:
        """Return once the view shows what somebody who saw `seen` has seen.

        Raises Unavailable for a later life of the store, or a revision that it has not reached.
        """
        own = self.incarnation
        if seen.incarnation != own:
            if seen.incarnation.counter > own.counter:
                raise Unavailable(
                    "this manager belongs to an older life of the store; ask another manager"
                )
            return
        if self.view.revision < seen.number:
            # A barrier and no wait: it brings even a revision that changed none of our keys, and a
            # revision made up by the caller holds nothing up.
            await self.barrier()
        if self.view.revision < seen.number:
            raise Unavailable("this manager has not reached that revision; ask another manager")

    async def mark(self) -> int:
        """Return the revision of a write that tells nothing, which every watch brings, behind all
        writes acknowledged before; the view shows it. Raises NoQuorum, Unavailable if it lags."""
        revision = await self._barrier.tick()
        await self.view.wait_for(revision, APPLY_S)
        return revision

    def open_value(self, secret_id: SecretId, version: VersionNumber) -> SecretBytes:
        """Return the plaintext of a version, for issuing.

        Raises VersionNotFound, or IntegrityError for a value that is not what was written.
        """
        record_id = value_id(secret_id, version)
        row = self.view.secret_values.row(record_id)
        if row is None:
            raise VersionNotFound
        record = self.open_row(self._blind_value(record_id), row)
        if record.id != record_id:
            raise self._fault_of_value("a secret value lies under the key of another")
        return SecretBytes(record.value)

    def open_row(self, key: bytes, row: SealedRow) -> SecretValueRecord:
        """Return the record in a sealed row; for issuing and resealing only."""
        try:
            opened = open_record(
                self.keyring, kind=Kind.SECRET_VALUE.value, engine_key=key, sealed=row.sealed
            )
            record = decode(Kind.SECRET_VALUE, opened.plaintext)
        except OpenFailed:
            raise self._fault_of_value("a secret value cannot be opened") from None
        if not isinstance(record, SecretValueRecord):
            raise InvariantViolation("a secret value's kind decodes to secret values")
        return record

    def _fault_of_value(self, what: str) -> IntegrityError:
        self.view.fault(Kind.SECRET_VALUE, what)
        return IntegrityError(f"{what}; see docs/how-to/integrity.md")

    def _blind_value(self, record_id: str) -> bytes:
        return self._cell.keyring.engine_key(Kind.SECRET_VALUE.value, record_id)

    # --- writing --------------------------------------------------------------------------------

    async def commit(self, write: Write) -> int:
        """Commit a write and return its revision, which this manager's view shows by then.

        Raises AlreadyExists where a Create met a record and StaleVersion where anything else
        changed since it was read; once the view reaches their `revision` it shows why. Conflict: a
        guard's duty is lost. Definite as well: StorageFull, TransactionTooLarge, NoQuorum.
        OutcomeUnknown: nobody can tell yet.
        """
        if not (write.steps or write.audit or write.shares):
            return self.view.revision
        for step in write.all_steps:
            self.view.check(_kind(step))
        done = asyncio.get_running_loop().create_future()
        pending = prepare(write, self.keyring, self._history, self.view.revision, done)
        return await self._submit(pending)

    async def update(
        self, decide: Callable[[View], Write | None], attempts: int = UPDATE_ATTEMPTS
    ) -> int:
        """Commit what `decide` makes of the view, deciding again whenever the view was stale;
        return the revision.

        `decide` may run several times and has no effects of its own; None is nothing to do. Raises
        what it raises, and what `commit` raises, a conflict after `attempts` of them.
        """
        for attempt in range(attempts):
            # Whoever met conflicts takes turns: of many writers of one record, each transaction
            # passes one, and the last of them would run out of attempts.
            async with self._turn if attempt >= FREE_ATTEMPTS else contextlib.nullcontext():
                write = decide(self.view)
                if write is None:
                    return self.view.revision
                try:
                    return await self.commit(write)
                except (StaleVersion, AlreadyExists) as conflict:
                    if attempt + 1 >= attempts:
                        raise
                    await self.view.wait_for(conflict.revision, APPLY_S)
        raise InvariantViolation("an update takes one attempt at least")

    async def replace_keyring(self, keyring: Keyring, audit: tuple[AuditEntry, ...] = ()) -> int:
        """Store a keyring that was made from the present one, and return once it is in force here.

        Raises StaleVersion if another manager was faster, Locked without the root key.
        """
        if not self._cell.stored:
            raise Locked("the keyring in use was not read from this store")
        wrapped = self._cell.wrap(keyring, self._entropy)
        done = asyncio.get_running_loop().create_future()
        pending = Pending(
            done=done,
            compares=(self._cell.compare,),
            guards=(),
            creates=frozenset(),
            puts=(),
            ready=(Put(KEYRING_KEY, wrapped),),
            audit=audit,
            writes=(),
            audit_bytes=audit_size(audit, ()),
        )
        return await self._submit(pending)

    def wrap(self, keyring: Keyring) -> bytes:
        """Return a keyring of its own wrapped under the root key, for a file beside the store.

        Raises Locked without the root key.
        """
        return self._cell.wrap(keyring, self._entropy)

    async def _submit(self, pending: Pending) -> int:
        self._own.expect(pending)
        try:
            return await self._shown(pending)
        finally:
            self._own.forget(pending)

    async def _shown(self, pending: Pending) -> int:
        """Commit, and return the revision once the view shows it."""
        try:
            revision = await self._batcher.submit(pending)
        except (StaleVersion, AlreadyExists) as conflict:
            if conflict.revision == 0:
                # A removal has no revision to wait for; a barrier lies behind it.
                conflict.revision = await self.barrier()
            raise
        try:
            await self.view.wait_for(revision, APPLY_S)
        except Unavailable:
            # Committed, but whoever goes on to read here would not see it.
            raise OutcomeUnknown from None
        return revision


def _kind(step: Step) -> Kind:
    match step:
        case Create(record):
            return record.kind
        case RequireAbsent(kind, _):
            return kind
        case Replace(stored) | Remove(stored) | Require(stored):
            return stored.record.kind
