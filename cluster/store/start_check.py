"""The check of a store that was stopped: does it hold what its audit chains tell was written?

A running manager sees a rollback by itself (`history`). One that starts has no memory, but the
chains are sealed and linked: whoever put old states of records into a stopped engine left links
behind that tell of newer ones. He who cuts the chains as well, at the same point, is not found out:
a row of the threat model.

Where older links were trimmed, the chains begin behind the checkpoint, and its summary tells what
the trimmed links told. From then on the tale is whole, so a record that it does not tell of is a
forgery or a replay. Source: ADR 0011.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog

from cluster.protocol.errors import AuditChainBroken, IntegrityError, Unavailable
from cluster.protocol.ids import ManagerId
from cluster.store.audit_chain import ChainHead, read_chain, trimmed_head, writes_of
from cluster.store.history import RETURNING
from cluster.store.records import (
    CHECKPOINT_ID,
    AuditCheckpointRecord,
    AuditRecord,
    AuditStreamRecord,
    Kind,
    summary_id,
)
from cluster.store.sealed_store import SealedStore

log = structlog.get_logger(__name__)

AUDIT: Final = "audit"
"""Stands for the kind in a fault of a chain."""
RETRY_S: Final = 1.0
YIELD_LINKS: Final = 50
"""Links that are opened before others have their turn: opening is work for the processor."""


class Told(msgspec.Struct, gc=False):
    """What the chains tell of one key."""

    highest: int = 0
    removed: bool = False


@dataclass(slots=True)
class Tale:
    """What the view showed at one revision, and what the chains tell up to it."""

    revision: int
    checkpoint: AuditCheckpointRecord | None
    """The checkpoint behind which the chains were read."""
    present: dict[bytes, tuple[Kind, int]]
    heads: dict[str, ChainHead] = field(default_factory=dict)
    """Where each chain stands at the revision, by stream."""
    told: dict[bytes, Told] = field(default_factory=dict)
    links: int = 0
    wrong: list[tuple[str, str]] = field(default_factory=list)
    """Kind and words of every contradiction."""


async def check_against_chains(store: SealedStore) -> int:
    """Report every contradiction as a fault of its kind; return how many links were read.

    May run beside writes and beside trimming: it judges the state that the view shows when it
    begins, and begins again if links were trimmed under its eyes. Goes on trying while the engine
    cannot be read.
    """
    while True:
        try:
            tale = await read_tale(store)
            if tale.wrong:
                # Links are deleted only behind a committed checkpoint, so a barrier shows it.
                await store.barrier()
                if checkpoint_of(store) != tale.checkpoint:
                    continue
        except Unavailable as error:
            log.info("store.check_again", code=error.code)
            await asyncio.sleep(RETRY_S)
            continue
        except IntegrityError as error:
            # What the check itself needs cannot be trusted: that fault was reported when it was
            # met, and a manager that ended for it could not tell anybody.
            log.warning("store.check_refused", code=error.code)
            return 0
        for kind, what in tale.wrong:
            store.view.fault(kind, what)
        return tale.links


async def read_tale(
    store: SealedStore, on_link: Callable[[AuditRecord], None] | None = None
) -> Tale:
    """Verify every chain up to the revision that the view shows now, and judge its records.

    `on_link` is called with each link that verified. Raises Unavailable if the engine cannot be
    read.
    """
    checkpoint = checkpoint_of(store)
    tale = Tale(store.view.revision, checkpoint, store.generations())
    streams = [stored.record for stored in store.view.audit_streams.values()]
    trimmed = {} if checkpoint is None else {head.stream: head for head in checkpoint.heads}
    if checkpoint is not None:
        _take_summary(store, checkpoint, tale)
    for stream in streams:
        head = trimmed_head(trimmed[stream.id]) if stream.id in trimmed else _start(stream)
        try:
            await _read(store, head, tale, on_link)
        except AuditChainBroken as error:
            tale.wrong.append((AUDIT, error.message))
    _judge(store, tale)
    return tale


def checkpoint_of(store: SealedStore) -> AuditCheckpointRecord | None:
    """Return the checkpoint that the view shows, None while nothing was ever trimmed."""
    stored = store.view.audit_checkpoints.get(CHECKPOINT_ID)
    return None if stored is None else stored.record


def contradiction(
    kind: Kind, present: tuple[Kind, int] | None, told: Told | None, *, whole: bool
) -> str | None:
    """Return what is wrong with a key, or None.

    `whole`: the tale goes back to the first record; without it, what `init` wrote is not told of.
    """
    if told is None:
        return "a record is there that the audit chain does not tell of" if whole else None
    if present is None:
        return None if told.removed else "a record that the audit chain tells of is missing"
    if told.removed and kind not in RETURNING:
        return "a record that the audit chain tells was removed is back"
    if present[1] < told.highest and not told.removed:
        # After a removal a successor may stand below (`history`): there the order is not known.
        return "a record is older than the audit chain tells"
    if present[1] > told.highest:
        return "a record is newer than the audit chain tells"
    return None


def _start(record: AuditStreamRecord) -> ChainHead:
    return ChainHead(ManagerId(record.manager_id), record.boot, record.lane)


def _take_summary(store: SealedStore, checkpoint: AuditCheckpointRecord, tale: Tale) -> None:
    for number in range(checkpoint.pieces):
        piece = store.view.audit_summaries.get(summary_id(checkpoint.summary, number))
        if piece is None:
            tale.wrong.append((AUDIT, "a piece of the checkpoint's summary is missing"))
            continue
        _take(tale, piece.record.present)


def _take(tale: Tale, writes: Iterable[tuple[bytes, int]]) -> None:
    for key, generation in writes:
        told = tale.told.get(key)
        if told is None:
            told = tale.told[key] = Told()
        if generation == 0:
            told.removed = True
        elif generation > told.highest:
            told.highest = generation


async def _read(
    store: SealedStore,
    head: ChainHead,
    tale: Tale,
    on_link: Callable[[AuditRecord], None] | None,
) -> None:
    """Verify one chain and take in what it tells."""
    links = read_chain(
        store.engine, store.keyring, head.stream, up_to=tale.revision, behind=head.sequence
    )
    async for link in links:
        head = head.after(link)
        _take(tale, writes_of(link))
        if link.sequence == 1:
            # The registration is written with the first link and needs no telling.
            registered = store.keyring.engine_key(Kind.AUDIT_STREAM.value, head.stream)
            _take(tale, ((registered, 1),))
        if on_link is not None:
            on_link(link)
        tale.links += 1
        if tale.links % YIELD_LINKS == 0:
            await asyncio.sleep(0)
    if head.sequence == 0:
        raise AuditChainBroken(f"{head.stream} is registered and has no link")
    tale.heads[head.stream] = head


def _judge(store: SealedStore, tale: Tale) -> None:
    whole = tale.checkpoint is not None
    for key, present in tale.present.items():
        what = contradiction(present[0], present, tale.told.get(key), whole=whole)
        if what is not None:
            tale.wrong.append((present[0], what))
    for key in tale.told.keys() - tale.present.keys():
        kind = store.kind_of(key)
        if kind is None:
            continue
        what = contradiction(kind, None, tale.told[key], whole=whole)
        if what is not None:
            tale.wrong.append((kind, what))
