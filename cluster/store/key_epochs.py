"""Key epochs: the first keyring of a store, and what a rotation of the record key leaves to do.

`strongroom key rotate` stores a keyring with a new epoch; `reseal` then writes every older record
again as it is, in batches that may stop and go on anywhere; when nothing is left under an old
epoch, `drop_epoch` destroys its key. Source: docs/explanation/keys.md.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

from cluster.engine.seam import (
    REQUEST_ID_SIZE,
    Absent,
    Committed,
    CompareFailed,
    Engine,
    Operation,
    OutcomeUnknown,
    Put,
)
from cluster.protocol import errors
from cluster.seal.envelope import peek, seal_record
from cluster.seal.keyring import Keyring
from cluster.store.keyring_cell import KEYRING_KEY
from cluster.store.records import AuditEntry, Kind, Record, encode
from cluster.store.steps import Replace, Write
from cluster.store.tables import SealedValue, Stored
from cluster.store.view import View
from cluster.system import Entropy

if TYPE_CHECKING:
    from cluster.store.sealed_store import SealedStore

BATCH: Final = 40


async def load_wrapped_keyring(engine: Engine) -> bytes | None:
    """Return the store's wrapped keyring, or None in a store that was never initialised."""
    entry = await engine.read(KEYRING_KEY)
    return None if entry is None else entry.value


async def bootstrap_store(
    engine: Engine,
    keyring: Keyring,
    wrapped_keyring: bytes,
    records: Sequence[Record],
    entropy: Entropy,
) -> int:
    """Write the keyring and the first records in one transaction, and return its revision.

    Raises AlreadyExists over a store that has a keyring: nothing is ever initialised twice.
    """
    operations: list[Operation] = [Put(KEYRING_KEY, wrapped_keyring)]
    operations += [_first_state(keyring, record, entropy) for record in records]
    compares = [Absent(operation.key) for operation in operations]
    request_id = entropy.token(REQUEST_ID_SIZE)
    outcome = await engine.transact(request_id, compares, operations)
    if isinstance(outcome, OutcomeUnknown):
        settled = await engine.cancel(request_id)
        outcome = settled if isinstance(settled, Committed) else outcome
    match outcome:
        case Committed(revision):
            return revision
        case CompareFailed():
            raise errors.AlreadyExists("this store is initialised already; choose another place")
        case OutcomeUnknown():
            raise errors.OutcomeUnknown


def _first_state(keyring: Keyring, record: Record, entropy: Entropy) -> Put:
    key = keyring.engine_key(record.kind.value, record.id)
    sealed = seal_record(
        keyring,
        kind=record.kind.value,
        engine_key=key,
        generation=1,
        plaintext=encode(record),
        entropy=entropy,
    )
    return Put(key, sealed)


async def reseal(store: "SealedStore", batch: int = BATCH) -> AsyncIterator[int]:
    """Write every record of an older key epoch again as it is; yield how many are done, after each
    batch.

    May be stopped and started again at any time, on any manager, beside all other writes.
    """
    done = 0
    while ids := list(islice(_older(store), batch)):
        await asyncio.gather(*(store.update(partial(_reseal, store, *which)) for which in ids))
        done += len(ids)
        yield done


async def epochs_in_use(store: "SealedStore") -> frozenset[int]:
    """Return the epochs that any record, value or audit link needs, and the current one."""
    view = store.view
    epochs = {store.keyring.current, *record_epochs(view)}
    for stream in view.audit_streams:
        async for epoch in _stream_epochs(store.engine, store.keyring.stream_prefix(stream)):
            epochs.add(epoch)
    return frozenset(epochs)


def record_epochs(view: View) -> frozenset[int]:
    """Return the epochs that any record or value needs; audit links are not among them."""
    epochs: set[int] = set()
    for kind in Kind:
        view.check(kind)
        if kind is not Kind.SECRET_VALUE:
            epochs.update(stored.epoch for stored in view.table(kind).values())
    epochs.update(row.epoch for row in view.secret_values.rows.values())
    return frozenset(epochs)


async def drop_epoch(store: "SealedStore", epoch: int, audit: tuple[AuditEntry, ...] = ()) -> int:
    """Destroy the key of an epoch and return the revision; raise Conflict while something needs it.

    Nothing can be sealed under it meanwhile: every transaction compares the keyring, whose current
    epoch is a later one.
    """
    await store.barrier()
    if epoch in await epochs_in_use(store):
        raise errors.Conflict(
            f"key epoch {epoch} is still in use; run `strongroom key rotate` to its end"
        )
    return await store.replace_keyring(store.keyring.without_epoch(epoch), audit)


def _older(store: "SealedStore") -> Iterator[tuple[Kind, str]]:
    current = store.keyring.current
    for kind in Kind:
        if kind is not Kind.SECRET_VALUE:
            for stored in store.view.table(kind).values():
                if stored.epoch != current:
                    yield kind, stored.record.id
    for key, row in tuple(store.view.secret_values.rows.items()):
        if row.epoch != current:
            yield Kind.SECRET_VALUE, store.open_row(key, row).id


def _reseal(store: "SealedStore", kind: Kind, record_id: str, view: View) -> Write | None:
    stored: Stored[Record] | Stored[SealedValue] | None
    if kind is Kind.SECRET_VALUE:
        stored = view.secret_values.get(record_id)
    else:
        stored = view.table(kind).get(record_id)
    if stored is None or stored.epoch == store.keyring.current:
        return None
    record = stored.record
    if isinstance(record, SealedValue):
        key = store.keyring.engine_key(kind.value, record_id)
        record = store.open_row(key, view.secret_values.rows[key])
    return Write(steps=(Replace(stored, record),))


async def _stream_epochs(engine: Engine, prefix: bytes) -> AsyncIterator[int]:
    after = None
    while True:
        page = await engine.list_page(prefix, after=after)
        for entry in page.entries:
            yield peek(entry.value).epoch
        if not page.more:
            return
        after = page.entries[-1].key
