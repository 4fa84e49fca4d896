"""What a manager says while it waits for its keyring, also of an engine that cannot start."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.engine.etcd_member import EtcdMember
from cluster.engine_start import StartedEngine
from cluster.keyring_wait import wait_for_keyring
from cluster.protocol.secret_bytes import SecretBytes
from tests.support.etcd_cluster import RunningMember, etcd_cluster

ROOT_KEY = SecretBytes(bytes(32))


@pytest.fixture
async def member(tmp_path: Path) -> AsyncIterator[RunningMember]:
    async with etcd_cluster(tmp_path) as members:
        yield members[0]


async def told(member: RunningMember, ends: str) -> list[str]:
    """Return the steps that are told, up to one that ends so."""
    steps: list[str] = []
    started = StartedEngine(member.engine, member.engine, member.member)
    waiting = asyncio.create_task(wait_for_keyring(started, ROOT_KEY, steps.append))
    try:
        async with asyncio.timeout(60):
            while not (steps and steps[-1].endswith(ends)):  # noqa: ASYNC110  # it is told
                await asyncio.sleep(0.05)
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    return steps


async def test_an_engine_whose_data_are_damaged_is_told_of(member: RunningMember) -> None:
    """Where its log is and what to do; before it ended again and again, it is only waited for."""
    await member.member.stop()
    settings = member.member.settings
    (wal,) = (settings.data_dir / "member" / "wal").glob("*.wal")
    content = bytearray(wal.read_bytes())
    content[48] ^= 1
    wal.write_bytes(content)
    member.member = EtcdMember(settings)
    assert not member.member.ends_at_every_start
    await member.member.start(member.initial, "existing")
    steps = await told(member, "docs/how-to/lose-a-manager.md")
    assert set(steps[:-1]) <= {"waiting for the engine"}
    assert steps[-1] == (
        f"waiting for the engine, which ends at every start; see {settings.log_path} and "
        "docs/how-to/lose-a-manager.md"
    )
    assert "crc mismatch" in settings.log_path.read_text()


async def test_an_engine_that_is_only_away_is_waited_for(member: RunningMember) -> None:
    """The control: one that ended once, of itself or by somebody's hand, is no reason to worry."""
    await member.kill()
    assert set(await told(member, "engine")) == {"waiting for the engine"}
    assert not member.member.ends_at_every_start
