"""Copying a whole store from one engine into another, sealed anew.

The copy has a keyring of its own: the same index key, so names stay, and one fresh key epoch, so
nothing that was ever sealed in the first engine opens in the second. Ids, generations and audit
links stay as they are; links are written one by one in the order of their transactions, which their
revisions tell. Nobody may write to either engine meanwhile: that is the caller's part. What was
copied is compared by `fingerprint`, over opened records, because every ciphertext differs.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from cluster.engine.seam import (
    REQUEST_ID_SIZE,
    Absent,
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
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal import aead
from cluster.seal.envelope import open_record, seal_record
from cluster.seal.keyring import Keyring
from cluster.store.audit_chain import AUDIT_KIND
from cluster.store.keyring_cell import KEYRING_KEY
from cluster.store.records import Kind, decode
from cluster.system import Entropy

BATCH: Final = 50
BATCH_BYTES: Final = 512 * 1024


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What two stores of the same content have in common."""

    count: int
    digest: str
    """Keyed by the index key: it is written down in the clear, and values may be short."""


@dataclass(frozen=True, slots=True)
class _Item:
    """An opened record or audit link."""

    kind: str
    key: bytes
    generation: int
    mod_revision: int
    plaintext: bytes = field(repr=False)


def successor(keyring: Keyring, entropy: Entropy) -> Keyring:
    """Return the keyring of the copy: the names of this one, and a fresh key epoch alone."""
    fresh = keyring.with_new_epoch(entropy)
    for epoch in keyring.epochs:
        fresh = fresh.without_epoch(epoch)
    return fresh


async def fingerprint(engine: Engine, keyring: Keyring) -> Fingerprint:
    """Return the fingerprint of all that a store can read. Raises IntegrityError."""
    digest, count = sha256(), 0
    async for item in _items(engine, keyring):
        generation = item.generation.to_bytes(8)
        digest.update(aead.frame(item.kind.encode(), item.key, generation, item.plaintext))
        count += 1
    return Fingerprint(count, keyring.engine_key("fingerprint", digest.hexdigest()).hex())


@dataclass(frozen=True, slots=True)
class StoreCopy:
    """One copy, from an engine at rest into an empty one."""

    source: Engine
    target: Engine
    keyring: Keyring
    """What the source is sealed with."""
    successor: Keyring
    entropy: Entropy

    async def run(self, root_key: SecretBytes) -> AsyncIterator[int]:
        """Copy everything; yield how many records and links are there, after each step.

        Raises AlreadyExists over a store that is there already, IntegrityError for what cannot be
        opened, Unavailable when the target does not take it.
        """
        wrapped = self.successor.wrap(root_key, self.entropy)
        await self._commit([Put(KEYRING_KEY, wrapped)], [Absent(KEYRING_KEY)])
        done, size = 0, 0
        batch: list[Operation] = []
        async for item in _records(self.source, self.keyring, await _head(self.source)):
            put = self._sealed(item)
            if batch and (len(batch) == BATCH or size + len(put.value) > BATCH_BYTES):
                done += await self._commit(batch)
                batch, size = [], 0
                yield done
            batch.append(put)
            size += len(put.value)
        if batch:
            done += await self._commit(batch)
        yield done
        async for put in self._links():
            done += await self._commit([put])
            if done % BATCH == 0:
                yield done
        yield done

    async def _links(self) -> AsyncIterator[Put]:
        """Yield the links in the order of their transactions, one by one: they may be many."""
        head = await _head(self.source)
        found = [(i.mod_revision, i.key) async for i in _links(self.source, self.keyring, head)]
        for _, key in sorted(found):
            entry = await self.source.read(key)
            if entry is None:
                raise errors.IntegrityError("an audit link went away while the store was copied")
            yield self._sealed(_opened(self.keyring, AUDIT_KIND, entry))

    def _sealed(self, item: _Item) -> Put:
        sealed = seal_record(
            self.successor,
            kind=item.kind,
            engine_key=item.key,
            generation=item.generation,
            plaintext=item.plaintext,
            entropy=self.entropy,
        )
        return Put(item.key, sealed)

    async def _commit(self, batch: list[Operation], compares: list[Compare] | None = None) -> int:
        """Write a batch and return how many it held."""
        request_id = self.entropy.token(REQUEST_ID_SIZE)
        match await self.target.transact(request_id, compares or [], batch):
            case Committed():
                return len(batch)
            case CompareFailed():
                raise errors.AlreadyExists("the new engine holds a store already; wipe its data")
            case OutcomeUnknown():
                raise errors.Unavailable("the new engine does not take the copy; see its log")


async def _items(engine: Engine, keyring: Keyring) -> AsyncIterator[_Item]:
    head = await _head(engine)
    async for item in _records(engine, keyring, head):
        yield item
    async for item in _links(engine, keyring, head):
        yield item


async def _records(engine: Engine, keyring: Keyring, head: int) -> AsyncIterator[_Item]:
    for kind in Kind:
        async for entry in _listed(engine, keyring.kind_prefix(kind.value), head):
            yield _opened(keyring, kind.value, entry)


async def _links(engine: Engine, keyring: Keyring, head: int) -> AsyncIterator[_Item]:
    """Yield the links of every registered chain; others belong to nobody."""
    registered = keyring.kind_prefix(Kind.AUDIT_STREAM.value)
    streams = []
    async for entry in _listed(engine, registered, head):
        item = _opened(keyring, Kind.AUDIT_STREAM.value, entry)
        streams.append(decode(Kind.AUDIT_STREAM, item.plaintext).id)
    for stream in streams:
        async for entry in _listed(engine, keyring.stream_prefix(stream), head):
            yield _opened(keyring, AUDIT_KIND, entry)


def _opened(keyring: Keyring, kind: str, entry: Entry) -> _Item:
    try:
        opened = open_record(keyring, kind=kind, engine_key=entry.key, sealed=entry.value)
    except errors.OpenFailed:
        raise errors.IntegrityError(
            f"something of kind {kind} cannot be opened; see docs/how-to/integrity.md"
        ) from None
    return _Item(kind, entry.key, opened.generation, entry.mod_revision, opened.plaintext)


async def _head(engine: Engine) -> int:
    return (await engine.list_page(KEYRING_KEY, limit=1)).revision


async def _listed(engine: Engine, prefix: bytes, head: int) -> AsyncIterator[Entry]:
    after = None
    while True:
        page = await engine.list_page(prefix, after=after, at_revision=head)
        for entry in page.entries:
            yield entry
        if not page.more:
            return
        after = page.entries[-1].key
