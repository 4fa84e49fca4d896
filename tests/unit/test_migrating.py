"""A store moves from SQLite to etcd: to be cut short at every step, and followed where it went."""

import asyncio
import contextlib
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from cluster.api.routes_admin import InitRequest, MigrateRequest, UnlockRequest
from cluster.config import Address, Config
from cluster.engine.sqlite_file import tombstone_of
from cluster.engine_start import MEMBER_DIR, SQLITE_FILE, engine_kind, has_member_log
from cluster.lifecycle import Lifecycle, State
from cluster.migrating import IMPORT_MARK, Tombstone, settle_import
from cluster.pki.csr import make_csr, new_key
from cluster.protocol.errors import Conflict, IntegrityError, Unavailable, WrongEngine
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import Kind, SecretRecord
from cluster.store.sealed_store import Create, Write
from cluster.system import SystemClock, SystemEntropy
from tests.support.etcd_cluster import need_etcd
from tests.support.running import free_ports
from tests.support.stores import secret, value

PATIENCE_S = 60.0


@pytest.fixture
def config(tmp_path: Path) -> Config:
    api, join, peer = (Address("127.0.0.1", port) for port in free_ports(3))
    data_dir, run_dir = tmp_path / "data", tmp_path / "run"
    for directory in (data_dir, run_dir):
        directory.mkdir(mode=0o700)
    return Config("m1", "127.0.0.1", data_dir, run_dir, api, join, peer, etcd=need_etcd())


@asynccontextmanager
async def living(config: Config) -> AsyncIterator[Lifecycle]:
    """Run a manager's life, as a process would."""
    life = Lifecycle(config, SystemClock(), SystemEntropy())
    try:
        yield life
    finally:
        await life.stop()


@asynccontextmanager
async def founded(config: Config) -> AsyncIterator[tuple[Lifecycle, str]]:
    """Found a cluster on SQLite with a secret in it."""
    async with living(config) as life:
        key = life.new_unlock_key()
        csr = make_csr(new_key())
        await life.init(InitRequest(key, "sqlite", "test.strongroom", "ada", csr))
        store = life.serving().store
        await store.commit(Write((Create(secret("s", 1)), Create(value("s", 1, b"kept")))))
        yield life, key


async def migrate(life: Lifecycle) -> list[str]:
    async with asyncio.timeout(PATIENCE_S):
        return [step.step async for step in life.migrate(MigrateRequest("etcd"))]


def held(life: Lifecycle) -> tuple[str, bytes]:
    """Return the engine's kind, and the secret's value."""
    serving = life.serving()
    stored = serving.store.view.table(Kind.SECRET).get("s")
    assert stored is not None
    assert isinstance(stored.record, SecretRecord)
    opened: SecretBytes = serving.store.open_value("s", 1)  # type: ignore[arg-type]  # plain ids
    return ("etcd" if serving.started.etcd else "sqlite"), opened.reveal()


async def unlocked(life: Lifecycle, key: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        async for _ in life.unlock(UnlockRequest(key)):
            pass


async def test_store_moves_and_a_restart_follows_it(config: Config) -> None:
    async with founded(config) as (life, key):
        before = life.serving().store.incarnation
        said = await migrate(life)
        assert said[0] == "stopping what is served"
        assert any(step.startswith("copied ") for step in said)
        assert life.state is State.SERVING
        assert held(life) == ("etcd", b"kept")
        after = life.serving().store.incarnation
        assert after.counter > before.counter
        assert after.unique != before.unique
        assert life.health() == (True, "")
        with pytest.raises(WrongEngine):
            await migrate(life)
    assert tombstone_of(config.engine_dir / SQLITE_FILE) is not None
    async with living(config) as life:
        await unlocked(life, key)
        assert held(life) == ("etcd", b"kept")
        assert life.serving().store.incarnation == after
        assert life.serving().store.view.faults == ()


async def test_cut_short_at_every_step_it_is_one_store_or_the_other(config: Config) -> None:
    """The process ends after each step in turn, as kill -9 would end it: no step undoes another."""
    async with founded(config) as (life, key):
        pass
    step = 0
    kinds: list[str] = []
    while not kinds or kinds[-1] == "sqlite":
        async with living(config) as life:
            await unlocked(life, key)
            assert held(life)[1] == b"kept"
            said: list[str] = []
            steps = life.migrate(MigrateRequest("etcd"))
            async for one in steps:
                said.append(one.step)
                if len(said) > step:
                    break
            await _die(life)
        kind = engine_kind(config)
        if kind == "sqlite" and said[-1] not in {"stopping what is served", "starting etcd"}:
            assert (config.engine_dir / IMPORT_MARK).exists(), said
        kinds.append(kind)
        step += 1
    assert kinds.count("sqlite") >= 4
    async with living(config) as life:
        await unlocked(life, key)
        assert held(life) == ("etcd", b"kept")
        assert not (config.engine_dir / IMPORT_MARK).exists()


async def _die(life: Lifecycle) -> None:
    """End a life without any of its tidying: the member is killed, the import stays as it is."""
    await life._changes.background.stop()


async def test_place_that_cannot_be_written_leaves_sqlite_serving(config: Config) -> None:
    async with founded(config) as (life, _):
        (config.engine_dir / MEMBER_DIR).touch()  # not a directory
        with pytest.raises(Unavailable, match="see the manager's log"):
            await migrate(life)
        assert held(life) == ("sqlite", b"kept")
        assert life.health() == (True, "")


@pytest.mark.slow  # it waits for an etcd that tries again and again
async def test_failed_migration_leaves_sqlite_serving(config: Config) -> None:
    """etcd cannot listen: the manager serves on as if nothing had been asked."""
    async with founded(config) as (life, _):
        with _taken(config.peer_listen), pytest.raises(Unavailable, match="etcd does not start"):
            await migrate(life)
        assert life.state is State.SERVING
        assert held(life) == ("sqlite", b"kept")
        assert life.health() == (True, "")
        assert not (config.engine_dir / IMPORT_MARK).exists()
        assert not has_member_log(config)
        assert (await migrate(life))[-1] == ""
        assert held(life) == ("etcd", b"kept")


def _taken(address: Address) -> socket.socket:
    taken = socket.socket()
    taken.bind((address.host, address.port))
    taken.listen()
    return taken


async def test_engine_that_cannot_be_had_is_told_before_anything_stops(config: Config) -> None:
    none = replace(config, etcd=config.data_dir / "no-etcd")
    async with founded(none) as (life, _):
        serving = life.serving()
        with pytest.raises(Unavailable, match="no etcd program"):
            await migrate(life)
        assert life.serving() is serving


@pytest.mark.threat("T-51")
async def test_other_data_than_the_tombstone_names_are_not_served(config: Config) -> None:
    async with founded(config) as (life, key):
        await migrate(life)
    path = config.engine_dir / SQLITE_FILE
    other = msgspec.structs.replace(
        msgspec.json.decode(tombstone_of(path) or "", type=Tombstone), engine_cluster="f00"
    )
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE tombstone SET text = ?", (msgspec.json.encode(other).decode(),))
    async with living(config) as life:
        with pytest.raises(IntegrityError, match="not those that the store was migrated to"):
            await unlocked(life, key)


def test_data_of_both_engines_without_a_migration_are_refused(config: Config) -> None:
    config.engine_dir.mkdir()
    (config.engine_dir / SQLITE_FILE).touch()
    settle_import(config)
    log = config.engine_dir / "member" / "member" / "wal"
    log.mkdir(parents=True)
    (log / "0.wal").touch()
    with pytest.raises(Conflict):
        settle_import(config)
    assert has_member_log(config)
    (config.engine_dir / IMPORT_MARK).touch()
    settle_import(config)
    assert not has_member_log(config)
