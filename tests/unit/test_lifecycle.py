"""A manager's life: founded once, locked after every restart, and never over what lies there."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from cluster.api.routes_admin import InitRequest, JoinRequest, RenewRequest, Step, UnlockRequest
from cluster.config import Address, Config
from cluster.data_directory import FOUNDING_MARK
from cluster.lifecycle import Lifecycle, State
from cluster.manager import _unlock_by_provider
from cluster.pki.csr import make_csr, new_key
from cluster.pki.join_token import JoinToken
from cluster.protocol.errors import (
    AlreadyExists,
    ClusterError,
    Conflict,
    InvalidRequest,
    Locked,
    PermissionDenied,
    Unavailable,
)
from cluster.store.records import Kind
from cluster.system import SystemClock, SystemEntropy
from tests.support.running import free_ports

PATIENCE_S = 60.0


@pytest.fixture
def config(tmp_path: Path) -> Config:
    api, join, peer = (Address("127.0.0.1", port) for port in free_ports(3))
    data_dir, run_dir = tmp_path / "data", tmp_path / "run"
    for directory in (data_dir, run_dir):
        directory.mkdir(mode=0o700)
    return Config("m1", "127.0.0.1", data_dir, run_dir, api, join, peer)


@asynccontextmanager
async def living(config: Config) -> AsyncIterator[Lifecycle]:
    """Run a manager's life, as a process would."""
    life = Lifecycle(config, SystemClock(), SystemEntropy())
    try:
        yield life
    finally:
        await life.stop()


def stands(life: Lifecycle, state: State) -> bool:
    """Return whether this is where a manager stands now."""
    return life.state is state


def founding(unlock_key: str, /, **changes: object) -> InitRequest:
    asked = InitRequest(
        unlock_key=unlock_key,
        engine="sqlite",
        trust_domain="test.strongroom",
        operator="ada",
        csr=make_csr(new_key()),
    )
    return msgspec.structs.replace(asked, **changes)


async def founded(config: Config) -> str:
    """Found a cluster, end the manager, and return the unlock key."""
    async with living(config) as life:
        unlock_key = life.new_unlock_key()
        await life.init(founding(unlock_key))
    return unlock_key


async def steps(life: Lifecycle, unlock_key: str) -> list[Step]:
    async with asyncio.timeout(PATIENCE_S):
        return [step async for step in life.unlock(UnlockRequest(unlock_key))]


# --- founding -----------------------------------------------------------------------------------


async def test_founded_manager_serves_whoever_it_gave_a_certificate(config: Config) -> None:
    async with living(config) as life:
        assert stands(life, State.EMPTY)
        reply = await life.init(founding(life.new_unlock_key()))
        assert stands(life, State.SERVING)
        assert life.health() == (True, "")
        assert reply["managers"] == [config.api_address]
        status = await life.status()
        assert isinstance(status["cluster"], dict)
        assert status["cluster"]["lock"] == "unlocked"
    assert not (config.data_dir / FOUNDING_MARK).exists()
    assert config.seal_file.stat().st_mode & 0o777 == 0o600


async def test_cluster_is_founded_once(config: Config) -> None:
    async with living(config) as life:
        await life.init(founding(life.new_unlock_key()))
        with pytest.raises(AlreadyExists):
            await life.init(founding(life.new_unlock_key()))
        assert stands(life, State.SERVING)
    async with living(config) as life:
        with pytest.raises(AlreadyExists):
            await life.init(founding(life.new_unlock_key()))


@pytest.mark.parametrize(
    "changes",
    [
        {"unlock_key": "SRKEY-1-none"},
        {"engine": "raftos"},
        {"trust_domain": "Not A Domain"},
        {"operator": "../ada"},
        {"csr": b"junk"},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_refused_founding_leaves_nothing(config: Config, changes: dict[str, object]) -> None:
    async with living(config) as life:
        with pytest.raises(InvalidRequest):
            await life.init(founding(life.new_unlock_key(), **changes))
        assert stands(life, State.EMPTY)
    assert list(config.data_dir.iterdir()) == []


async def test_founding_that_failed_half_way_can_be_repeated(config: Config) -> None:
    """Another process writes a seal file meanwhile: the store is there, its key is not kept."""
    async with living(config) as life:
        founding_ = asyncio.create_task(life.init(founding(life.new_unlock_key())))
        async with asyncio.timeout(PATIENCE_S):
            while not (config.data_dir / FOUNDING_MARK).exists():  # noqa: ASYNC110  # a file
                await asyncio.sleep(0)
        config.seal_file.write_bytes(b"of another process")
        with pytest.raises(AlreadyExists):
            await founding_
        assert stands(life, State.EMPTY)
        config.seal_file.unlink()
        await life.init(founding(life.new_unlock_key()))
        assert stands(life, State.SERVING)


async def test_founding_cut_short_is_wiped_and_repeated(config: Config) -> None:
    await founded(config)
    config.seal_file.unlink()
    (config.data_dir / FOUNDING_MARK).touch()
    async with living(config) as life:
        assert stands(life, State.EMPTY)
        await life.init(founding(life.new_unlock_key()))
        assert stands(life, State.SERVING)


async def test_data_without_their_seal_file_are_not_founded_over(config: Config) -> None:
    await founded(config)
    config.seal_file.rename(config.data_dir.parent / "seal")
    for attempt in (_init, _join):
        async with living(config) as life:
            with pytest.raises(AlreadyExists, match="restore the seal file"):
                await attempt(life)
    assert (config.engine_dir / "store.db").exists()


async def _init(life: Lifecycle) -> None:
    await life.init(founding(life.new_unlock_key()))


async def _join(life: Lifecycle) -> None:
    token = JoinToken.new(hashlib.sha256(b"root").hexdigest(), SystemEntropy()).format()
    async for _ in life.join(JoinRequest(life.new_unlock_key(), token, ("127.0.0.1:1",))):
        pass


async def test_mark_that_outlived_its_founding_does_no_harm(config: Config) -> None:
    """With it, and without the seal file, `init` would wipe a whole cluster."""
    unlock_key = await founded(config)
    (config.data_dir / FOUNDING_MARK).touch()
    async with living(config) as life:
        await steps(life, unlock_key)
    config.seal_file.unlink()
    async with living(config) as life:
        with pytest.raises(AlreadyExists):
            await life.init(founding(life.new_unlock_key()))


# --- unlocking ----------------------------------------------------------------------------------


@pytest.mark.threat("T-24")
async def test_restarted_manager_is_locked_until_unlocked(config: Config) -> None:
    unlock_key = await founded(config)
    async with living(config) as life:
        assert stands(life, State.LOCKED)
        assert life.health() == (False, "the manager is locked")
        assert "cluster" not in await life.status()
        with pytest.raises(Locked):
            await life.renew_operator(RenewRequest("ada", make_csr(new_key())))
        assert (await steps(life, unlock_key))[-1] == Step(done=True)
        assert stands(life, State.SERVING)
        assert await steps(life, unlock_key) == [Step(done=True)]


@pytest.mark.threat("T-24")
async def test_wrong_unlock_key_changes_nothing(config: Config) -> None:
    unlock_key = await founded(config)
    async with living(config) as life:
        with pytest.raises(PermissionDenied):
            await steps(life, life.new_unlock_key())
        assert stands(life, State.LOCKED)
        assert (await steps(life, unlock_key))[-1] == Step(done=True)


async def test_empty_manager_cannot_be_unlocked(config: Config) -> None:
    async with living(config) as life:
        with pytest.raises(Conflict, match="strongroom init"):
            await steps(life, life.new_unlock_key())
        with pytest.raises(Unavailable):
            await life.renew_operator(RenewRequest("ada", b""))


async def test_store_that_was_replaced_is_not_served(config: Config) -> None:
    """An empty store beside a seal file: whatever was in it is gone, and nobody may overlook it."""
    unlock_key = await founded(config)
    for file in config.engine_dir.iterdir():
        file.unlink()
    (config.engine_dir / "store.db").touch()
    async with living(config) as life:
        with pytest.raises(ClusterError):
            await steps(life, unlock_key)
        assert stands(life, State.FAILED)
        assert life.failed.is_set()


async def test_local_root_renews_an_operator(config: Config) -> None:
    async with living(config) as life:
        await life.init(founding(life.new_unlock_key()))
        reply = await life.renew_operator(RenewRequest("ada", make_csr(new_key())))
        assert reply["certificate_chain"]


@pytest.mark.parametrize(("content", "state"), [(None, State.STARTING), (b"junk", State.LOCKED)])
async def test_provider_file_unlocks_if_it_holds_the_key(
    config: Config, tmp_path: Path, content: bytes | None, state: State
) -> None:
    unlock_key = await founded(config)
    provider = tmp_path / "unlock.key"
    provider.write_bytes(content or unlock_key.encode())
    async with living(replace(config, unlock_key_file=provider)) as life:
        await _unlock_by_provider(life)
        assert stands(life, state)
        assert (await life.status())["unlocks_by_itself"] is True


async def test_absent_provider_file_leaves_it_locked(config: Config, tmp_path: Path) -> None:
    await founded(config)
    async with living(replace(config, unlock_key_file=tmp_path / "none")) as life:
        await _unlock_by_provider(life)
        assert stands(life, State.LOCKED)


# --- faults -------------------------------------------------------------------------------------


async def test_poisoned_store_is_told_and_not_ready(config: Config) -> None:
    async with living(config) as life:
        await life.init(founding(life.new_unlock_key()))
        assert life._unlocked is not None
        life._unlocked.store.view.fault(Kind.NODE, "a record cannot be opened")
        ready, reason = life.health()
        assert not ready
        assert "node" in reason
        status = await life.status()
        assert status["reason"] == reason
        assert "cluster" not in status


async def test_port_in_use_is_told_before_any_secret_is_asked_for(config: Config) -> None:
    listening = (config.api_listen.host, config.api_listen.port)
    with (
        socket.create_server(listening),
        pytest.raises(Unavailable, match=str(config.api_listen.port)),
    ):
        Lifecycle(config, SystemClock(), SystemEntropy())


async def test_peer_port_in_use_is_told_before_anything_is_founded(config: Config) -> None:
    """As with a second cluster on one machine that only has other ports for its API."""
    told = f"{config.peer_listen} cannot be used"
    with socket.create_server((config.peer_listen.host, config.peer_listen.port)):
        async with living(config) as life:
            with pytest.raises(Unavailable, match=told):
                await life.init(founding(life.new_unlock_key(), engine="etcd"))
            with pytest.raises(Unavailable, match=told):
                await _join(life)
            assert stands(life, State.EMPTY)
            assert list(config.data_dir.iterdir()) == []
            # Without peers nobody needs that port.
            await life.init(founding(life.new_unlock_key()))
            assert stands(life, State.SERVING)
