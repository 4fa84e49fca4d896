"""The batcher: sends concurrent writes to the engine, merged, in two lanes, each with its audit
chain.

Theory of operation. Writes wait in one queue; whichever lane is free takes the next batch at once,
so a lone write is never delayed. A lane has one transaction in flight, because the next audit link
needs the digest of the last.

    answer of the engine     the batch's writes                         the lane's chain
    Committed                succeed                                    moves on
    CompareFailed            the violated fail, the others merge again  stays
    OutcomeUnknown           settled by cancelling the request id:
      Committed                succeed                                  moves on
      Cancelled                merge again                              stays
      still unknown            raise OutcomeUnknown                     unknown: the lane settles
      before its next batch

Retrying singly after a conflict would collapse the throughput (4,155/s to 1,155/s at 2 %
conflicts). Source: ADR 0002.
"""

import asyncio
from collections import deque
from typing import Final

import structlog

from cluster.engine.seam import (
    REQUEST_ID_SIZE,
    Absent,
    Cancelled,
    Committed,
    Compare,
    CompareFailed,
    Engine,
    Entry,
    Operation,
    OutcomeUnknown,
    Put,
)
from cluster.protocol import errors
from cluster.protocol.ids import ManagerId
from cluster.seal.envelope import seal_record
from cluster.seal.keyring import Keyring
from cluster.store.audit_chain import AUDIT_KIND, ChainHead
from cluster.store.barrier import OwnCommits
from cluster.store.batch import Pending, distinct, holds, take
from cluster.store.keyring_cell import KeyringCell
from cluster.store.records import AuditRecord, encode
from cluster.system import Clock, Entropy

log = structlog.get_logger(__name__)

LANES: Final = 2
SETTLE_S: Final = 10.0
"""How long the writers of a batch wait for its unknown outcome to be settled."""
SETTLE_RETRY_S: Final = 0.5
COMMIT_S: Final = 30.0
"""How long a write waits in all."""
KEYRING_S: Final = 10.0


class Batcher:
    """Merges writes; `run` carries the lanes."""

    def __init__(
        self,
        engine: Engine,
        cell: KeyringCell,
        commits: OwnCommits,
        *,
        manager_id: ManagerId,
        boot: str,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._engine = engine
        self._cell = cell
        self._commits = commits
        self._clock = clock
        self._entropy = entropy
        self._queue: deque[Pending] = deque()
        self._filled = asyncio.Event()
        self._lanes = [_Lane(self, ChainHead(manager_id, boot, number)) for number in range(LANES)]
        self._closed = False

    async def submit(self, write: Pending) -> int:
        """Return the revision at which the write was committed.

        Raises what its compares met (AlreadyExists, StaleVersion, Conflict), what the engine
        refuses (StorageFull, TransactionTooLarge), NoQuorum if it was certainly not sent,
        OutcomeUnknown if nobody can tell.
        """
        if self._closed:
            raise errors.Unavailable("this manager is stopping; ask another manager")
        if not write.fits_alone:
            raise errors.TransactionTooLarge
        self._queue.append(write)
        self._filled.set()
        try:
            async with asyncio.timeout(COMMIT_S):
                return await write.done
        except TimeoutError:
            if write in self._queue:
                self._queue.remove(write)
                raise errors.NoQuorum from None
            raise errors.OutcomeUnknown from None

    async def run(self) -> None:
        """Carry the lanes, for ever."""
        try:
            async with asyncio.TaskGroup() as lanes:
                for lane in self._lanes:
                    lanes.create_task(lane.run(), name=f"store-lane-{lane.head.lane}")
        finally:
            self._closed = True
            while self._queue:
                self._queue.popleft().fail(errors.Unavailable("this manager is stopping"))

    async def next_batch(self) -> list[Pending]:
        """Wait for writes and return those of one batch."""
        while True:
            if batch := take(self._queue):
                return batch
            self._filled.clear()
            await self._filled.wait()  # by a lane, which ends with the store

    def merge_again(self, writes: list[Pending]) -> None:
        """Put writes that were certainly not applied back in front."""
        self._queue.extendleft(reversed(writes))
        self._filled.set()

    @property
    def engine(self) -> Engine:
        """Where the lanes send to."""
        return self._engine

    @property
    def cell(self) -> KeyringCell:
        """What the lanes seal with."""
        return self._cell

    @property
    def commits(self) -> OwnCommits:
        """Where the lanes tell what they sent and what became of it."""
        return self._commits

    @property
    def clock(self) -> Clock:
        """The clock of audit streams."""
        return self._clock

    @property
    def entropy(self) -> Entropy:
        """Where request ids and salts are drawn."""
        return self._entropy


class _Lane:
    """One audit chain and its one transaction in flight."""

    def __init__(self, batcher: Batcher, head: ChainHead) -> None:
        self._batcher = batcher
        self._engine = batcher.engine
        self.head = head

    async def run(self) -> None:
        """Send batch after batch, for ever."""
        while True:
            batch = await self._batcher.next_batch()
            try:
                await self._send(batch)
            except errors.ClusterError as error:
                _fail(batch, error)
            except BaseException:
                # The lane ends in the middle of a transaction: nobody will settle it.
                _fail(batch, errors.OutcomeUnknown())
                raise

    async def _send(self, batch: list[Pending]) -> None:
        cell, entropy = self._batcher.cell, self._batcher.entropy
        keyring, unchanged_keyring = cell.keyring, cell.compare
        record = self._link(batch)
        own_compares, own_operations = self._own(record, keyring)
        compares = distinct(
            [unchanged_keyring, *own_compares]
            + [compare for write in batch for compare in (*write.compares, *write.guards)]
        )
        operations = own_operations + [
            operation for write in batch for operation in write.operations(keyring, entropy)
        ]
        request_id = entropy.token(REQUEST_ID_SIZE)
        sending = self._batcher.commits.sending()
        match await self._engine.transact(request_id, compares, operations):
            case Committed(revision):
                self._batcher.commits.committed(sending, revision)
                self._committed(batch, record, revision)
            case CompareFailed(()):
                self._batcher.merge_again(batch)
            case CompareFailed(current):
                met = dict(zip(compares, current, strict=True))
                if not holds(unchanged_keyring, met[unchanged_keyring]):
                    await self._await_keyring(batch, unchanged_keyring)
                else:
                    self._conflicted(batch, met, own_compares)
            case OutcomeUnknown(reason):
                log.warning("store.outcome_unknown", lane=self.head.lane, reason=reason)
                await self._settle(batch, record, request_id)

    def _link(self, batch: list[Pending]) -> AuditRecord:
        entries = tuple(entry for write in batch for entry in write.audit)
        return self.head.link(entries, tuple(pair for write in batch for pair in write.writes))

    def _own(self, record: AuditRecord, keyring: Keyring) -> tuple[list[Compare], list[Operation]]:
        """Return a transaction's own part: the link and, with the first, the registration."""
        key = keyring.stream_key(self.head.stream, record.sequence)
        sealed = [(AUDIT_KIND, key, record.sequence, encode(record))]
        if self.head.sequence == 0:
            registration = self.head.registration(self._batcher.clock.now().timestamp())
            kind = registration.kind.value
            registered = keyring.engine_key(kind, registration.id)
            sealed.append((kind, registered, 1, encode(registration)))
        puts: list[Operation] = [
            Put(
                key,
                seal_record(
                    keyring,
                    kind=kind,
                    engine_key=key,
                    generation=generation,
                    plaintext=plaintext,
                    entropy=self._batcher.entropy,
                ),
            )
            for kind, key, generation, plaintext in sealed
        ]
        return [Absent(put.key) for put in puts], puts

    def _committed(self, batch: list[Pending], record: AuditRecord, revision: int) -> None:
        self.head = self.head.after(record)
        for write in batch:
            write.succeed(revision)

    def _conflicted(
        self, batch: list[Pending], met: dict[Compare, Entry | None], own: list[Compare]
    ) -> None:
        """Fail exactly the violated writes and merge the others again."""
        if not all(holds(compare, met[compare]) for compare in own):
            log.error("store.integrity", kind=AUDIT_KIND, what="another writer in our chain")
            raise errors.AuditChainBroken("another writer appended to this manager's audit chain")
        again = []
        for write in batch:
            error = write.violated(met)
            if error is None:
                again.append(write)
            else:
                write.fail(error)
        if len(again) == len(batch):
            raise errors.InvariantViolation("the engine refused compares that hold")
        self._batcher.merge_again(again)

    async def _await_keyring(self, batch: list[Pending], before: Compare) -> None:
        """Merge again under the new keyring, once the view has brought it."""
        await self._batcher.cell.wait_changed(before, KEYRING_S)
        self._batcher.merge_again(batch)

    async def _settle(self, batch: list[Pending], record: AuditRecord, request_id: bytes) -> None:
        """Learn what became of a transaction; the lane sends nothing before it knows."""
        loop = asyncio.get_running_loop()
        deadline = loop.call_later(SETTLE_S, _fail, batch, errors.OutcomeUnknown())
        try:
            while True:
                match await self._cancel(request_id):
                    case Committed(revision):
                        return self._committed(batch, record, revision)
                    case Cancelled():
                        return self._batcher.merge_again(batch)
                    case OutcomeUnknown():
                        _fail(batch, errors.OutcomeUnknown())
                await asyncio.sleep(SETTLE_RETRY_S)
        finally:
            deadline.cancel()

    async def _cancel(self, request_id: bytes) -> Committed | Cancelled | OutcomeUnknown:
        try:
            return await self._engine.cancel(request_id)
        except errors.Unavailable as error:
            return OutcomeUnknown(error.message)


def _fail(batch: list[Pending], error: errors.ClusterError) -> None:
    for write in batch:
        write.fail(error)
