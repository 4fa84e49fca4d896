"""Stores over one real engine: as many managers as wanted, and a raw hand beneath them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from cluster.engine.seam import (
    Cancelled,
    Committed,
    Compare,
    Engine,
    Entry,
    Operation,
    Outcome,
    OutcomeUnknown,
    Put,
)
from cluster.engine.sqlite import SqliteEngine
from cluster.protocol.ids import ManagerId, SecretId, VersionNumber
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.keyring import Keyring, new_keyring
from cluster.store.key_epochs import bootstrap_store
from cluster.store.records import (
    CLUSTER_ID,
    ClusterRecord,
    Kind,
    NodeRecord,
    SecretRecord,
    SecretValueRecord,
    SecretVersion,
    VersionState,
    value_id,
)
from cluster.store.sealed_store import SealedStore
from tests.support.clock import ManualClock
from tests.support.entropy import SeededEntropy


class StoreLab:
    """An initialised engine and the stores that managers open on it."""

    def __init__(self, engine: Engine, keyring: Keyring, root_key: SecretBytes, seed: int) -> None:
        self.engine = engine
        self.keyring = keyring
        self.root_key = root_key
        self.entropy = SeededEntropy(seed)
        self.clock = ManualClock()
        self._stores: list[SealedStore] = []

    async def open(
        self,
        name: str = "m1",
        boot: str = "b1",
        *,
        engine: Engine | None = None,
        keyring: Keyring | None = None,
    ) -> SealedStore:
        """Open the store as a manager does."""
        store = await SealedStore.open(
            engine or self.engine,
            keyring or self.keyring,
            root_key=self.root_key,
            manager_id=ManagerId(name),
            boot=boot,
            clock=self.clock,
            entropy=self.entropy,
        )
        self._stores.append(store)
        return store

    async def close(self) -> None:
        """Close every store, then the engine."""
        for store in self._stores:
            await store.close()
        await self.engine.close()

    def key(self, kind: Kind, record_id: str) -> bytes:
        """Return the blinded key of a record."""
        return self.keyring.engine_key(kind.value, record_id)

    async def entry(self, key: bytes) -> Entry:
        """Return what lies under a key."""
        entry = await self.engine.read(key)
        assert entry is not None
        return entry

    async def write_raw(self, *operations: Operation) -> int:
        """Write to the engine as somebody who has it but no key."""
        outcome = await self.engine.transact(self.entropy.token(16), (), operations)
        assert isinstance(outcome, Committed)
        return outcome.revision

    async def put_raw(self, key: bytes, value: bytes) -> int:
        """Put one value, as `write_raw` does."""
        return await self.write_raw(Put(key, value))


async def initialised(engine: Engine, seed: int) -> StoreLab:
    """Return a lab over an engine that was just initialised."""
    entropy = SeededEntropy(seed)
    root_key = SecretBytes(entropy.token(32))
    keyring = new_keyring(entropy)
    lab = StoreLab(engine, keyring, root_key, seed + 1)
    await bootstrap_store(
        engine, keyring, keyring.wrap(root_key, entropy), [cluster_record()], entropy
    )
    return lab


@contextlib.asynccontextmanager
async def sqlite_lab(directory: Path, seed: int) -> AsyncIterator[StoreLab]:
    """Run a lab over a fresh SQLite file."""
    lab = await initialised(await SqliteEngine.open(directory / "store.db", ManualClock()), seed)
    try:
        yield lab
    finally:
        await lab.close()


def cluster_record() -> ClusterRecord:
    """Return the record that `init` writes."""
    return ClusterRecord(
        id=CLUSTER_ID,
        cluster_id="c1",
        trust_domain="lab.example",
        created_at=0.0,
        incarnation_counter=1,
        incarnation_unique="first",
        unlock_verifier=b"v",
    )


def node(node_id: str, **fields: object) -> NodeRecord:
    """Return a node."""
    return NodeRecord(id=node_id, name=str(fields.get("name", node_id)), created_at=0.0)


def secret(secret_id: str, *numbers: int) -> SecretRecord:
    """Return a secret whose last version is primary."""
    states = [VersionState.ACTIVE] * (len(numbers) - 1) + [VersionState.PRIMARY]
    versions = tuple(
        SecretVersion(VersionNumber(number), state, 1, 0.0, "test")
        for number, state in zip(numbers, states, strict=True)
    )
    return SecretRecord(
        id=secret_id,
        name=secret_id,
        versions=versions,
        next_number=numbers[-1] + 1,
        created_at=0.0,
        updated_at=0.0,
    )


def value(secret_id: str, number: int, content: bytes) -> SecretValueRecord:
    """Return a version's value."""
    record_id = value_id(SecretId(secret_id), VersionNumber(number))
    return SecretValueRecord(id=record_id, value=content)


class UnreliableEngine:
    """A port to a real engine: a test can lose its answers and hold up its cancelling."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.lose_next = 0
        """Transactions whose answer is lost after they were applied."""
        self.drop_next = 0
        """Transactions that are lost before they are applied."""
        self.unsettled = 0
        """Cancellations that are answered with OutcomeUnknown."""
        self.settled = asyncio.Event()
        """Set once a cancellation was passed on."""
        self.sent: list[tuple[Compare, ...]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    async def transact(
        self, request_id: bytes, compares: tuple[Compare, ...], operations: tuple[Operation, ...]
    ) -> Outcome:
        """Pass on, or lose."""
        self.sent.append(tuple(compares))
        if self.drop_next:
            self.drop_next -= 1
            return OutcomeUnknown("dropped by the test")
        outcome = await self._engine.transact(request_id, compares, operations)
        if self.lose_next:
            self.lose_next -= 1
            return OutcomeUnknown("lost by the test")
        return outcome

    async def cancel(self, request_id: bytes) -> Committed | Cancelled | OutcomeUnknown:
        """Pass on, or do not settle."""
        if self.unsettled:
            self.unsettled -= 1
            return OutcomeUnknown("held up by the test")
        self.settled.set()
        return await self._engine.cancel(request_id)
