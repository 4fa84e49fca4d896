"""A write-ahead log that breaks alone: what was acknowledged is durable, and no more is."""

from pathlib import Path

import pytest

from tests.support.etcd_cluster import need_etcd
from tests.support.mounts import require_mounting, run_in_private_mounts

MEMBER = """
import asyncio, os, sys
from pathlib import Path

from cluster.engine.etcd import EtcdEngine
from cluster.engine.seam import Committed, Put
from cluster.system import SystemClock, SystemEntropy
from tests.faults.log_disk import LogDisk
from tests.support.etcd_cluster import (
    PeerCa, free_address, member_settings, need_etcd, start_member, wait_until_serving
)

base = Path(sys.argv[1])
address = free_address()
settings = member_settings(base, PeerCa(), need_etcd(), "m1", address)
log = LogDisk(settings.data_dir / "member" / "wal", base / "log.img")

async def begun():
    member = await start_member(settings, {"m1": address})
    await wait_until_serving(member.engine)
    return member

async def write(engine, key):
    outcome = await engine.transact(os.urandom(16), (), [Put(key, b"v")])
    return isinstance(outcome, Committed)

async def main():
    await (await begun()).end()
    log.move_out()
    member = await begun()
    assert await write(member.engine, b"before"), "it writes onto the device"
    broken = member.member.pid
    log.disk.cut_power()
    hasty = EtcdEngine.connect(settings.socket_path, SystemClock(), SystemEntropy(), give_up_s=2)
    assert not await write(await hasty, b"after"), "a write that is in no log is acknowledged"
    assert member.member.pid != broken, "the engine goes on without its log"
    await member.end()
    log.move_back()
    member = await begun()
    found = [(await member.engine.read(key)) is not None for key in (b"before", b"after")]
    await member.end()
    assert found == [True, False], found

asyncio.run(main())
"""


@pytest.mark.needs_root
def test_an_engine_ends_with_its_log_and_comes_back_with_what_was_durable(tmp_path: Path) -> None:
    need_etcd()
    require_mounting()
    done = run_in_private_mounts(MEMBER, str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
