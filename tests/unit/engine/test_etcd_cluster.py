"""Three members: elections, membership and what a killed leader may not take with it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.engine.etcd_watch import SILENCE_S
from cluster.engine.seam import (
    Absent,
    Cancelled,
    Committed,
    CompareFailed,
    OutcomeUnknown,
    Put,
    WatchBatch,
)
from cluster.protocol.errors import Conflict, NoQuorum, Unavailable
from tests.support.etcd_cluster import (
    PeerCa,
    RunningMember,
    etcd_cluster,
    free_address,
    leader_of,
    member_settings,
    start_member,
    wait_until_serving,
)
from tests.unit.engine.conformance import commit, increment, present, request_id, take


@pytest.fixture
async def members(tmp_path: Path, program: Path) -> AsyncIterator[list[RunningMember]]:
    async with etcd_cluster(tmp_path, 3, program=program) as members:
        yield members


def others(members: list[RunningMember], one: RunningMember) -> list[RunningMember]:
    """Return the other members."""
    return [member for member in members if member is not one]


async def test_nothing_acknowledged_is_lost_when_the_leader_is_killed(
    members: list[RunningMember],
) -> None:
    leader = await leader_of(members)
    survivors = others(members, leader)
    start = await leader.engine.barrier()
    revisions: dict[int, bytes] = {}

    async def write(member: RunningMember, name: bytes) -> None:
        for number in range(60):
            key = b"w/%s/%d" % (name, number)
            done = await commit(member.engine, Put(key, b"v" * 900), compares=[Absent(key)])
            revisions[done.revision] = key

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(take(survivors[0].engine.watch(b"w/", start + 1), 4 * 60))
        for member in survivors:
            group.create_task(write(member, member.name.encode()))
            group.create_task(write(member, member.name.encode() + b"-too"))
        await asyncio.sleep(0.05)
        await leader.kill()
    batches: list[WatchBatch] = watching.result()
    assert [batch.revision for batch in batches] == sorted(revisions)
    for batch in batches:
        assert [change.entry.key for change in batch.changes] == [revisions[batch.revision]]
    for revision, key in revisions.items():
        assert (await present(survivors[1].engine, key)).mod_revision == revision


async def test_counters_survive_the_leaders_death(members: list[RunningMember]) -> None:
    leader = await leader_of(members)
    survivors = others(members, leader)

    async def count(member: RunningMember) -> None:
        for _ in range(30):
            await increment(member.engine, b"n")

    async with asyncio.TaskGroup() as group:
        for member in survivors:
            group.create_task(count(member))
        await asyncio.sleep(0.05)
        await leader.kill()
    assert (await present(survivors[0].engine, b"n")).value == b"60"


async def test_a_killed_member_catches_up(members: list[RunningMember]) -> None:
    first = members[0]
    stream = first.engine.watch(b"k", await first.engine.barrier() + 1)
    made = [await commit(members[1].engine, Put(b"k", b"0"))]
    met = await take(stream, 1)
    await first.kill()
    made += [await commit(members[1].engine, Put(b"k", b"%d" % n)) for n in range(1, 20)]
    await first.restart()
    met += await take(stream, 19)
    assert [batch.revision for batch in met] == [done.revision for done in made]


async def test_a_watch_outlives_a_frozen_member(members: list[RunningMember]) -> None:
    frozen, other = members[0], members[1]
    stream = frozen.engine.watch(b"k", await frozen.engine.barrier() + 1)
    made = [await commit(other.engine, Put(b"k", b"0"))]
    met = await take(stream, 1)
    frozen.freeze()
    made += [await commit(other.engine, Put(b"k", b"%d" % n)) for n in range(1, 10)]
    waiting = asyncio.ensure_future(take(stream, 9))
    await asyncio.sleep(SILENCE_S + 1)
    assert not waiting.done()
    frozen.thaw()
    met += await waiting
    assert [batch.revision for batch in met] == [done.revision for done in made]


async def test_without_a_majority_nothing_is_decided(members: list[RunningMember]) -> None:
    once = request_id()
    last = members[0]
    await commit(last.engine, Put(b"before", b"v"))
    listed = await last.engine.list_page(b"")
    for member in members[1:]:
        await member.kill()
    last.engine._calls._give_up_s = 1.0
    outcome = await last.engine.transact(once, [], [Put(b"k", b"v")])
    assert isinstance(outcome, OutcomeUnknown)
    assert isinstance(await last.engine.cancel(once), OutcomeUnknown)
    with pytest.raises(NoQuorum):
        await last.engine.read(b"before")
    with pytest.raises(NoQuorum):
        await last.engine.list_page(b"")
    assert await last.engine.list_page(b"", at_revision=listed.revision) == listed
    seen = await last.engine.read(b"before", linearizable=False)
    assert seen is not None
    assert len((await last.engine.status()).members) == 3
    await members[1].restart()
    await wait_until_serving(last.engine)
    settled = await last.engine.cancel(once)
    met = await last.engine.read(b"k")
    assert isinstance(settled, Committed | Cancelled)
    assert (met is not None) == isinstance(settled, Committed)


async def test_a_duty_passes_on_when_its_holder_is_gone(members: list[RunningMember]) -> None:
    held = await members[0].engine.campaign("placement", "m1", 2)
    waiting = asyncio.ensure_future(members[1].engine.campaign("placement", "m2", 2))
    await commit(members[2].engine, Put(b"k", b"m1"), compares=[held.guard])
    await members[0].kill()
    async with asyncio.timeout(60):
        await held.lost()
        taken = await waiting
    late = await members[2].engine.transact(request_id(), [held.guard], [Put(b"k", b"late")])
    assert isinstance(late, CompareFailed)
    await commit(members[2].engine, Put(b"k", b"m2"), compares=[taken.guard])
    assert await members[2].engine.holders() == {"placement": "m2"}
    await taken.resign()


async def test_the_lead_is_handed_over(members: list[RunningMember]) -> None:
    leader = await leader_of(members)
    follower = others(members, leader)[0]
    ids = {m.name: m.member_id for m in await leader.engine.membership.members()}
    with pytest.raises(Conflict):
        await follower.engine.membership.move_leader(ids[follower.name])
    await leader.engine.membership.move_leader(ids[follower.name])
    assert (await leader_of(members)).name == follower.name


async def test_members_join_as_learners_and_leave(tmp_path: Path, program: Path) -> None:
    ca = PeerCa()
    async with etcd_cluster(tmp_path, 1, program=program, ca=ca) as members:
        first = members[0]
        await commit(first.engine, Put(b"k", b"v"))
        address = free_address()
        known = await first.engine.membership.add_learner(address)
        assert await first.engine.membership.add_learner(address) == known
        joining = next(member for member in known if member.peer_address == address)
        assert joining.is_learner
        await commit(first.engine, Put(b"meanwhile", b"v"))
        settings = member_settings(tmp_path, ca, program, "m2", address)
        initial = {member.name or "m2": member.peer_address for member in known}
        second = await start_member(settings, initial, "existing")
        members.append(second)
        for _ in range(2):  # promoting again is no error
            known = await first.engine.membership.promote(joining.member_id)
        assert not any(member.is_learner for member in known)
        await wait_until_serving(second.engine)
        assert (await present(second.engine, b"k")).value == b"v"
        for _ in range(2):
            rest = await first.engine.membership.remove_member(joining.member_id)
        assert [member.name for member in rest] == ["m1"]
        async with asyncio.timeout(60):
            await second.member.removed.wait()
        await commit(first.engine, Put(b"alone", b"v"))
        second.member.wipe_data_dir()
        assert not settings.data_dir.exists()


async def test_a_member_of_the_wrong_name_is_kept_out(tmp_path: Path, program: Path) -> None:
    ca = PeerCa()
    async with etcd_cluster(tmp_path, 1, program=program, ca=ca) as members:
        first = members[0]
        address = free_address()
        known = await first.engine.membership.add_learner(address)
        settings = member_settings(tmp_path, ca, program, "m2", address)
        ca.write_leaf(settings.peer_pem, "some-worker")
        initial = {member.name or "m2": member.peer_address for member in known}
        intruder = await start_member(settings, initial, "existing")
        members.append(intruder)
        with pytest.raises(Unavailable):
            await intruder.engine.read(b"k")
        printed = first.member.settings.log_path.read_text()
        assert "rejected" in printed
