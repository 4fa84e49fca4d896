"""The check of a store that was stopped: does it hold what its audit chains tell was written?

A running manager sees a rollback by itself (`history`). One that starts has no memory, but the
chains are sealed and linked: whoever put old states of records into a stopped engine left links
behind that tell of newer ones. He who cuts the chains as well, at the same point, is not found out:
a row of the threat model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cluster.protocol.errors import AuditChainBroken
from cluster.protocol.ids import ManagerId
from cluster.store.audit_chain import ChainHead, read_chain, writes_of
from cluster.store.history import RETURNING
from cluster.store.records import AuditStreamRecord, Kind
from cluster.store.sealed_store import SealedStore

AUDIT: Final = "audit"
"""Stands for the kind in a fault of a chain."""


@dataclass(slots=True)
class _Told:
    """What the chains tell of one key."""

    highest: int = 0
    removed: bool = False


async def check_against_chains(
    store: SealedStore, checkpoints: Mapping[str, ChainHead] | None = None
) -> int:
    """Report every contradiction as a fault of its kind; return how many links were read.

    `checkpoints`: heads of the chains, by stream, whose older links were trimmed. All chains are
    trimmed at one revision, else a removal could be trimmed before the creation that it ended. May
    run beside writes: it judges the state that the view shows when it begins.
    """
    revision, present = store.view.revision, store.generations()
    told: dict[bytes, _Told] = {}
    count = 0
    for stored in store.view.audit_streams.values():
        checkpoint = (checkpoints or {}).get(stored.record.id) or _start(stored.record)
        try:
            count += await _read(store, checkpoint, revision, told)
        except AuditChainBroken as error:
            store.view.fault(AUDIT, error.message)
    for key, tale in told.items():
        kind = store.kind_of(key)
        wrong = None if kind is None else contradiction(kind, present.get(key), tale)
        if kind is not None and wrong is not None:
            store.view.fault(kind, wrong)
    return count


def contradiction(kind: Kind, present: tuple[Kind, int] | None, told: _Told) -> str | None:
    """Return what is wrong with a key, or None."""
    if present is None:
        return None if told.removed else "a record that the audit chain tells of is missing"
    if told.removed and kind not in RETURNING:
        return "a record that the audit chain tells was removed is back"
    if present[1] < told.highest and not told.removed:
        # After a removal a successor may stand below (`history`): there the order is not known.
        return "a record is older than the audit chain tells"
    return None


def _start(record: AuditStreamRecord) -> ChainHead:
    return ChainHead(ManagerId(record.manager_id), record.boot, record.lane)


async def _read(
    store: SealedStore, head: ChainHead, revision: int, told: dict[bytes, _Told]
) -> int:
    """Verify one chain and take in what it tells; return the number of its links."""
    start = head.sequence
    async for link in read_chain(store.engine, store.keyring, head.stream, up_to=revision):
        if link.sequence <= start:
            continue
        head = head.after(link)
        for key, generation in writes_of(link):
            tale = told.setdefault(key, _Told())
            tale.highest = max(tale.highest, generation)
            tale.removed = tale.removed or generation == 0
    if head.sequence == 0:
        raise AuditChainBroken(f"{head.stream} is registered and has no link")
    return head.sequence - start
