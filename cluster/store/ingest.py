"""Ingest: turns what the engine holds into the view, and refuses what cannot be true.

Owns opening, the checks of identity (`kind` and `id` inside against the blinded key) and of
history, and the watch. A record that fails is reported by kind and poisons its table; it is never
skipped. Lists everything at one revision first, then follows the watch; where history was compacted
away it lists again and takes in the difference.
"""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import structlog

from cluster.engine.seam import Change, Engine, Entry, Page, WatchBatch
from cluster.protocol.errors import (
    Compacted,
    IntegrityError,
    Locked,
    OpenFailed,
    StoreRolledBack,
    Unavailable,
)
from cluster.seal.envelope import open_record, peek
from cluster.seal.keyring import PREFIX_SIZE
from cluster.store.history import History
from cluster.store.keyring_cell import KEYRING_KEY, KeyringCell
from cluster.store.own_writes import OwnWrites
from cluster.store.records import Kind, Record, decode
from cluster.store.tables import SealedRow, Stored
from cluster.store.view import EVERYTHING, RecordChange, View

log = structlog.get_logger(__name__)

RETRY_S: Final = 0.5
LIST_ATTEMPTS: Final = 5
PAGE_ATTEMPTS: Final = 5
PAGE: Final = 10_000
"""Records of a page, if they are small."""
AT_ONCE: Final = 1_000
"""Records that are opened before others have their turn."""
MANY: Final = 10_000
"""Records that are worth keeping from the collector of cycles: they have none, and it would look
through all of them while they are read, and stop everything for it ever after."""


class _Staged(NamedTuple):
    """An entry that was opened, before it is taken in."""

    kind: Kind
    entry: Entry
    generation: int
    epoch: int
    record: Record | None
    """None for a secret value, which is not opened."""


class Ingest:
    """Feeds one view from one engine."""

    def __init__(
        self, engine: Engine, cell: KeyringCell, view: View, history: History, own: OwnWrites
    ) -> None:
        self._engine = engine
        self._own = own
        self._cell = cell
        self._view = view
        self._history = history
        keyring = cell.keyring
        # The index key does not change, so neither do the prefixes.
        self._prefixes = {kind: keyring.kind_prefix(kind.value) for kind in Kind}
        self._kinds = {prefix: kind for kind, prefix in self._prefixes.items()}
        self._known: dict[bytes, tuple[Kind, str, int]] = {}
        """Engine key -> kind, id ("" for a secret value) and mod_revision of all in the view."""

    async def load(self) -> None:
        """List every kind at one revision and take in the difference to what the view holds.

        Raises StoreRolledBack if the engine is behind the view.
        """
        for _ in range(LIST_ATTEMPTS):
            try:
                return await self._list_all()
            except Compacted as compacted:
                log.info("store.listing_compacted", revision=compacted.revision)
        raise Unavailable("the store changes faster than it can be listed; retry")

    async def follow(self) -> None:
        """Take in every change, for ever; raise only what no retry can mend."""
        behind = False
        while True:
            try:
                if behind:
                    await self.load()
                    behind = False
                async for batch in self._engine.watch(b"", self._view.revision + 1):
                    self.apply(batch)
            except Compacted as compacted:
                log.info("store.relisting", compacted=compacted.revision)
                behind = True
            except Unavailable as error:
                log.warning("store.watch_interrupted", code=error.code)
                await asyncio.sleep(RETRY_S)

    def end(self) -> None:
        """Give the records back to the collector, once nothing is taken in any more: a store is a
        cycle, and would stay in memory for ever beside the one that follows it."""
        gc.unfreeze()

    def apply(self, batch: WatchBatch) -> None:
        """Take in all changes of one revision, then show it."""
        changes = [self._change(change) for change in batch.changes]
        self._view.reached(batch.revision, tuple(change for change in changes if change))

    def _change(self, change: Change) -> RecordChange | None:
        entry = change.entry
        if entry.key == KEYRING_KEY:
            self._take_keyring(None if change.deleted else entry)
            return None
        if change.deleted:
            return self._remove(entry.key)
        staged = self._open(entry)
        return None if staged is None else self._take(staged)

    def generations(self) -> dict[bytes, tuple[Kind, int]]:
        """Return kind and generation of all that the view holds, by engine key."""
        return {
            key: (kind, self._history.generation(key)) for key, (kind, _, _) in self._known.items()
        }

    def kind_of(self, key: bytes) -> Kind | None:
        """Return the kind whose keyspace a key lies in."""
        return self._kinds.get(key[:PREFIX_SIZE])

    async def _list_all(self) -> None:
        page = await self._engine.list_page(KEYRING_KEY, limit=1)
        revision = page.revision
        if revision < self._view.revision:
            self._view.fault(EVERYTHING, "the engine's revision went back")
            raise StoreRolledBack
        self._take_keyring(page.entries[0] if page.entries else None)
        if not (self._known or self._view.revision):
            await self._fill(revision)
            return
        staged: list[_Staged] = []
        listed: set[bytes] = set()
        for kind in Kind:
            async for entries in self._pages(self._prefixes[kind], revision):
                listed.update(entry.key for entry in entries)
                opened = (self._open(entry) for entry in entries)
                staged += [one for one in opened if one is not None]
        # From here to the end without an await: nobody sees half of a listing.
        changes = [self._remove(key) for key in self._known.keys() - listed]
        changes += [self._take(one) for one in staged]
        self._view.reached(revision, tuple(change for change in changes if change))

    async def _fill(self, revision: int) -> None:
        """Take a first listing in as it comes: nobody has the view yet, and staged as well it would
        be in memory twice. If it breaks off, the next listing takes in the difference."""
        gc.disable()
        try:
            for kind in Kind:
                async for entries in self._pages(self._prefixes[kind], revision):
                    for entry in entries:
                        opened = self._open(entry)
                        if opened is not None:
                            self._take(opened)
        finally:
            gc.enable()
        if len(self._known) >= MANY:
            gc.freeze()
        self._view.reached(revision, ())

    async def _pages(self, prefix: bytes, revision: int) -> AsyncIterator[tuple[Entry, ...]]:
        after = None
        while True:
            page = await self._page(prefix, after, revision)
            for at in range(0, len(page.entries), AT_ONCE):
                yield page.entries[at : at + AT_ONCE]
                await asyncio.sleep(0)
            if not page.more:
                return
            after = page.entries[-1].key

    async def _page(self, prefix: bytes, after: bytes | None, revision: int) -> Page:
        """Return a page. An engine may stand still for longer than a read insists, and a listing
        that began anew at each time would come to no end."""
        list_page = self._engine.list_page
        for _ in range(PAGE_ATTEMPTS - 1):
            try:
                return await list_page(prefix, after=after, at_revision=revision, limit=PAGE)
            except Compacted:
                raise
            except Unavailable as error:
                log.info("store.listing_delayed", code=error.code)
                await asyncio.sleep(RETRY_S)
        return await list_page(prefix, after=after, at_revision=revision, limit=PAGE)

    def _take_keyring(self, entry: Entry | None) -> None:
        if entry is None:
            if self._cell.stored:
                self._view.fault("keyring", "the stored keyring was removed")
            return
        try:
            self._cell.take(entry)
        except (IntegrityError, Locked) as error:
            self._view.fault("keyring", error.message)

    def _open(self, entry: Entry) -> _Staged | None:
        """Return what is under a key; None for a stream's key, and after a fault was reported."""
        kind = self.kind_of(entry.key)
        if kind is None:
            return None
        try:
            return self._open_kind(kind, entry)
        except OpenFailed:
            self._view.fault(kind, "a record cannot be opened")
        except IntegrityError as error:
            self._view.fault(kind, error.message)
        return None

    def _open_kind(self, kind: Kind, entry: Entry) -> _Staged:
        key, sealed = entry.key, entry.value
        if kind is Kind.SECRET_VALUE:
            header = peek(sealed)
            return _Staged(kind, entry, header.generation, header.epoch, None)
        own = self._own.plaintext(key, sealed)
        if own is not None:
            header = peek(sealed)
            return _Staged(kind, entry, header.generation, header.epoch, decode(kind, own))
        keyring = self._cell.keyring
        opened = open_record(keyring, kind=kind, engine_key=key, sealed=sealed)
        record = decode(kind, opened.plaintext)
        if keyring.engine_key(kind, record.id) != key:
            raise IntegrityError("a record lies under the key of another")
        return _Staged(kind, entry, opened.generation, opened.epoch, record)

    def _take(self, staged: _Staged) -> RecordChange | None:
        entry, kind, record = staged.entry, staged.kind, staged.record
        known = self._known.get(entry.key)
        wrong = self._history.admit(
            kind,
            entry.key,
            staged.generation,
            entry.value,
            recreated=known is not None and entry.create_revision > known[2],
        )
        if wrong is not None:
            self._view.fault(kind, wrong)
            return None
        self._known[entry.key] = (kind, record.id if record else "", entry.mod_revision)
        if record is None:
            self._view.secret_values.rows[entry.key] = SealedRow(
                entry.value, staged.generation, entry.mod_revision, staged.epoch
            )
            return None
        if known is not None and known[2] == entry.mod_revision:
            return None
        stored = Stored(record, staged.generation, entry.mod_revision, staged.epoch)
        return self._view.put(stored)

    def _remove(self, key: bytes) -> RecordChange | None:
        known = self._known.pop(key, None)
        if known is None:
            return None
        kind, record_id, _ = known
        self._history.remove(key)
        if kind is Kind.SECRET_VALUE:
            self._view.secret_values.rows.pop(key, None)
            return None
        return self._view.drop(kind, record_id)
