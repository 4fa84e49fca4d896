"""The etcd engine on one real member: the conformance suite, and a kill in mid-write."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.engine import etcd_pb2 as pb
from cluster.engine.etcd import EtcdEngine
from cluster.engine.etcd_channel import LEASE_REVOKE
from cluster.engine.seam import Absent, Committed, OutcomeUnknown, Put
from cluster.protocol.errors import NoQuorum, Unavailable
from cluster.system import SystemClock, SystemEntropy
from tests.support.etcd_cluster import RunningMember, etcd_cluster
from tests.unit.engine.conformance import (
    SMALL_QUOTA_BYTES,
    EngineConformance,
    commit,
    present,
    request_id,
    take,
)


@pytest.fixture
async def member(tmp_path: Path, program: Path) -> AsyncIterator[RunningMember]:
    async with etcd_cluster(tmp_path, program=program) as members:
        yield members[0]


@pytest.fixture
async def engine(member: RunningMember) -> EtcdEngine:
    return member.engine


@pytest.fixture
async def small_engine(tmp_path: Path, program: Path) -> AsyncIterator[EtcdEngine]:
    async with etcd_cluster(tmp_path, program=program, quota_bytes=SMALL_QUOTA_BYTES) as members:
        yield members[0].engine


class TestEtcdConformance(EngineConformance):
    """The suite every engine passes."""


async def test_acknowledged_writes_survive_kill(member: RunningMember) -> None:
    numbers = itertools.count()

    async def write(count: int) -> None:
        for number in itertools.islice(numbers, count):
            await commit(member.engine, Put(b"%08d" % number, b"v" * 900))

    await write(50)
    async with asyncio.TaskGroup() as group:
        group.create_task(write(100))
        await asyncio.sleep(0.02)
        await member.kill()
        await member.restart()
    for number in range(150):
        assert (await present(member.engine, b"%08d" % number)).value == b"v" * 900


async def test_watch_goes_on_after_the_member_was_killed(member: RunningMember) -> None:
    start = await member.engine.barrier()
    stream = member.engine.watch(b"", start + 1)
    made = [await commit(member.engine, Put(b"k", b"%d" % number)) for number in range(3)]
    met = await take(stream, 3)
    await member.kill()
    await member.restart()
    made += [await commit(member.engine, Put(b"k", b"%d" % number)) for number in range(3)]
    met += await take(stream, 3)
    assert [batch.revision for batch in met] == [done.revision for done in made]


async def test_without_a_member_writes_are_unknown_and_reads_fail(tmp_path: Path) -> None:
    engine = await EtcdEngine.connect(
        tmp_path / "none.sock:0", SystemClock(), SystemEntropy(), give_up_s=0.3
    )
    outcome = await engine.transact(request_id(), [], [Put(b"k", b"v")])
    assert isinstance(outcome, OutcomeUnknown)
    with pytest.raises(Unavailable, match="does not run"):
        await engine.read(b"k")
    with pytest.raises(Unavailable):
        await engine.status()
    await engine.close()


async def test_an_unknown_outcome_is_settled_by_sending_again(member: RunningMember) -> None:
    impatient = await EtcdEngine.connect(
        member.member.settings.socket_path, SystemClock(), SystemEntropy(), give_up_s=0.5
    )
    await commit(impatient, Put(b"warm", b""))
    once = request_id()
    member.freeze()
    outcome = await impatient.transact(once, [Absent(b"k")], [Put(b"k", b"v")])
    member.thaw()
    assert isinstance(outcome, OutcomeUnknown)
    settled = await member.engine.transact(once, [Absent(b"k")], [Put(b"k", b"v")])
    assert isinstance(settled, Committed)
    assert (await present(member.engine, b"k")).mod_revision == settled.revision
    await impatient.close()


async def test_a_lost_lease_of_request_ids_is_replaced(engine: EtcdEngine) -> None:
    await commit(engine, Put(b"k", b"1"))
    lease = await engine._calls.lease.current()
    await engine._channel.ask(LEASE_REVOKE, pb.LeaseRevokeRequest(ID=lease))
    await commit(engine, Put(b"k", b"2"))
    assert await engine._calls.lease.current() != lease


async def test_a_duty_is_lost_when_its_member_is_silent(member: RunningMember) -> None:
    held = await member.engine.campaign("placement", "m1", 2)
    member.freeze()
    async with asyncio.timeout(60):
        await held.lost()
    member.thaw()


async def test_closed_engine_says_so(member: RunningMember) -> None:
    engine = await EtcdEngine.connect(
        member.member.settings.socket_path, SystemClock(), SystemEntropy()
    )
    held = await engine.campaign("duty", "me", 10)
    start = await engine.barrier()
    watching = asyncio.ensure_future(take(engine.watch(b"", start + 1), 1))
    await asyncio.sleep(0.1)
    await engine.close()
    await held.lost()
    with pytest.raises(Unavailable):
        await watching
    with pytest.raises(Unavailable):
        await engine.read(b"k")
    outcome = await engine.transact(request_id(), [], [Put(b"k", b"v")])
    assert isinstance(outcome, OutcomeUnknown)


async def test_reads_without_an_answer_name_the_quorum(member: RunningMember) -> None:
    member.freeze()
    with pytest.raises(NoQuorum):
        await member.engine.read(b"k")
    member.thaw()
