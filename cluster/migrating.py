"""`strongroom store migrate`: a single manager's store moves from SQLite to etcd.

    step                         a crash afterwards leaves
    1 mark, etcd started         SQLite in use; the next start wipes what was imported
    2 copied, compared           the same
    3 new life recorded there    the same
    4 tombstone in SQLite        etcd in use: what starts follows the tombstone, not a configuration

The tombstone names etcd's cluster, so that nothing else is ever taken for the copy. Nobody writes
meanwhile: `cluster.lifecycle` has stopped what served. Owns the steps and what lies on the disk
between them; `store.migration` copies. Source: DESIGN 3.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog

from cluster.config import Config
from cluster.control.callers import LOCAL_ROOT
from cluster.control.policy import Action, Resource, authorize
from cluster.engine.etcd_member import check_version, find_etcd
from cluster.engine.seam import Engine
from cluster.engine.sqlite import SqliteEngine
from cluster.engine.sqlite_disk import sync_directory
from cluster.engine.sqlite_file import tombstone_of
from cluster.engine_start import (
    MEMBER_DIR,
    SQLITE_FILE,
    StartedEngine,
    engine_answers,
    engine_kind,
    has_member_log,
    start_engine,
)
from cluster.new_life import NewLife
from cluster.protocol.errors import ClusterError, Conflict, IntegrityError, Unavailable, WrongEngine
from cluster.protocol.undecodable import UNDECODABLE
from cluster.seal.keyring import Keyring
from cluster.seal.unlock import SealFileContents
from cluster.store.key_epochs import load_wrapped_keyring
from cluster.store.migration import Fingerprint, StoreCopy, fingerprint, successor
from cluster.store.steps import Step, Write
from cluster.store.view import View
from cluster.system import Clock, Entropy

log = structlog.get_logger(__name__)

IMPORT_MARK: Final = "importing"


class Tombstone(msgspec.Struct, frozen=True):
    """What SQLite keeps of where its store went."""

    engine_cluster: str
    """etcd's own name of the cluster, hex."""
    incarnation: str
    count: int
    digest: str
    at: float


def settle_import(config: Config) -> None:
    """Bring the engine's directory to what its last migration decided. Blocking.

    Raises Conflict where data of both engines lie and no migration put them there.
    """
    mark = config.engine_dir / IMPORT_MARK
    sqlite = config.engine_dir / SQLITE_FILE
    if not sqlite.exists():
        return
    if tombstone_of(sqlite) is not None:
        mark.unlink(missing_ok=True)
    elif mark.exists():
        log.warning("store.import_wiped")
        shutil.rmtree(config.engine_dir / MEMBER_DIR, ignore_errors=True)
        mark.unlink()
    elif has_member_log(config):
        raise Conflict(
            "data of SQLite and of etcd lie in one directory, and no migration is under way; keep "
            "those of the engine in use and move the others away"
        )


def moved_to(text: str) -> Tombstone:
    """Return what a store that was left says of its successor, or raise IntegrityError."""
    try:
        return msgspec.json.decode(text, type=Tombstone)
    except UNDECODABLE:
        raise IntegrityError(
            "the store was migrated, and where to cannot be read; put its file back"
        ) from None


async def check_followed(config: Config, started: StartedEngine) -> None:
    """Raise IntegrityError if this engine is not the one that this manager's store moved to."""
    text = await asyncio.to_thread(tombstone_of, config.engine_dir / SQLITE_FILE)
    if text is None or started.etcd is None:
        return
    if (await started.engine.status()).cluster_id != moved_to(text).engine_cluster:
        raise IntegrityError(
            "the engine's data are not those that the store was migrated to; put those back, or "
            "remove this manager and join a new one"
        )


async def require_migratable(config: Config, started: StartedEngine) -> SqliteEngine:
    """Return the engine to move from. Raises WrongEngine, Unavailable, before anything stops."""
    if not isinstance(started.engine, SqliteEngine):
        raise WrongEngine("this cluster runs on etcd already")
    await check_version(find_etcd(config.etcd))
    return started.engine


@dataclass(slots=True)
class Migration:
    """One move; `run` carries it out, and `started` is then the engine to go on with."""

    config: Config
    contents: SealFileContents
    source: SqliteEngine
    clock: Clock
    entropy: Entropy
    started: StartedEngine | None = None

    async def run(self) -> AsyncIterator[str]:
        """Move the store, telling each step. Until the tombstone stands, SQLite's is the store.

        Raises what the engines raise, and IntegrityError where the copy differs or the audit does
        not tell what is there.
        """
        yield "starting etcd"
        await asyncio.to_thread(self._begin_import)
        self.started = await start_engine(
            self.config, "etcd", self.contents, self.clock, self.entropy
        )
        target = self.started.engine
        await engine_answers(target)
        yield "reading the store"
        keyring = await self._keyring()
        fresh = successor(keyring, self.entropy)
        expected = await fingerprint(self.source, keyring)
        copy = StoreCopy(self.source, target, keyring, fresh, self.entropy)
        async for done in copy.run(self.contents.root_key):
            yield f"copied {done} of {expected.count}"
        yield "comparing"
        if await fingerprint(target, fresh) != expected:
            raise IntegrityError("the copy differs from the store; nothing was changed")
        incarnation = await self._begin_life(target, fresh)
        yield "moving over"
        await self._commit(target, incarnation, expected)

    def _begin_import(self) -> None:
        """Set the mark before there is anything that a restart would have to wipe."""
        shutil.rmtree(self.config.engine_dir / MEMBER_DIR, ignore_errors=True)
        (self.config.engine_dir / IMPORT_MARK).touch(mode=0o600)
        sync_directory(self.config.engine_dir)

    async def _keyring(self) -> Keyring:
        wrapped = await load_wrapped_keyring(self.source)
        if wrapped is None:
            raise IntegrityError("the store is empty although this manager has a seal file")
        return Keyring.unwrap(self.contents.root_key, wrapped)

    async def _begin_life(self, target: Engine, keyring: Keyring) -> str:
        """Record the store's new life in the copy, once its audit tells what is there; return the
        incarnation."""
        new = NewLife(self.contents, self.config.peer_address, self.clock, self.entropy)
        life = await new.begin(target, keyring, self._new_life)
        return f"{life.counter}.{life.unique}"

    def _new_life(self, _view: View, steps: list[Step]) -> Write:
        entry = authorize(LOCAL_ROOT, Action.STORE_MIGRATE, Resource("store"), self.clock.now())
        entry = msgspec.structs.replace(entry, detail="from sqlite to etcd")
        return Write(tuple(steps), (entry,))

    async def _commit(self, target: Engine, incarnation: str, expected: Fingerprint) -> None:
        """Write the tombstone: the one moment at which the store moves."""
        tombstone = Tombstone(
            engine_cluster=(await target.status()).cluster_id,
            incarnation=incarnation,
            count=expected.count,
            digest=expected.digest,
            at=self.clock.now().timestamp(),
        )
        await asyncio.to_thread(sync_directory, self.config.engine_dir)
        await self.source.retire(msgspec.json.encode(tombstone).decode())
        await asyncio.to_thread(_unmark, self.config.engine_dir / IMPORT_MARK)
        log.info("store.migrated", incarnation=incarnation, items=expected.count)


async def migrated(
    migration: Migration, source: StartedEngine, tell: Callable[[str], None]
) -> tuple[StartedEngine, Exception | None]:
    """Carry a migration out and return the engine to go on with, and why it is not etcd.

    After a failure the disk decides, as it would after a crash. When cancelled, both engines end.
    """
    failure: Exception | None = None
    try:
        async for step in migration.run():
            tell(step)
    except Exception as error:  # noqa: BLE001  # whatever it was, somebody has to serve again
        log.warning("store.migration_failed", error=type(error).__name__)
        known = isinstance(error, ClusterError)
        failure = error if known else Unavailable("the migration failed; see the manager's log")
    except BaseException:
        await _stop(migration.started, source)
        raise
    if failure is None and migration.started is not None:
        await source.stop()
        return migration.started, None
    await _stop(migration.started, source)
    config = migration.config
    await asyncio.to_thread(settle_import, config)
    kind = await asyncio.to_thread(engine_kind, config)
    return (
        await start_engine(config, kind, migration.contents, migration.clock, migration.entropy),
        failure,
    )


async def _stop(*engines: StartedEngine | None) -> None:
    for engine in engines:
        if engine is not None:
            await engine.stop()


def _unmark(mark: Path) -> None:
    mark.unlink(missing_ok=True)
