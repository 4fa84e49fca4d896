"""Taking removed managers out of a real engine of three members."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.control.manager_removal import ManagerRemoval
from cluster.control.policy import Principal, Role
from cluster.control.refusals import Refusals
from cluster.control.requests import Requests
from cluster.departures import Departures
from cluster.duties import ALIVE_PREFIX
from cluster.protocol.identity import Kind, SpiffeId
from cluster.protocol.ids import ManagerId
from cluster.store.records import ManagerRecord, ManagerState
from cluster.store.sealed_store import SealedStore
from cluster.store.steps import Create, Replace, Write
from tests.support.clock import ManualClock
from tests.support.etcd_cluster import RunningMember, etcd_cluster
from tests.support.stores import StoreLab, initialised

PATIENCE_S = 60.0
ELSEWHERE = "127.0.0.9:1"


@dataclass
class Three:
    """Three members, and a store on two of them."""

    members: list[RunningMember]
    stores: list[SealedStore]

    def departures(self, number: int) -> Departures:
        """Return the way out as manager `number` (1 or 2) sees it."""
        store, member = self.stores[number - 1], self.members[number - 1]
        identity = SpiffeId("lab.example", Kind.MANAGER, f"m{number}")
        clock = ManualClock()
        return Departures(
            store,
            member.engine,
            member.engine.membership,
            ManagerRemoval(Requests(store, clock, Refusals(clock))),
            Principal(identity, str(identity), Role.MANAGER),
            ManagerId(f"m{number}"),
        )

    def address(self, number: int) -> str:
        return self.members[number - 1].member.settings.peer_advertise

    async def record(self, manager_id: str, state: ManagerState, address: str) -> None:
        """Write a manager's record."""
        record = ManagerRecord(
            id=manager_id, name=manager_id, state=state, api_address="h:1", join_address="h:2",
            peer_address=address, joined_at=0.0,
        )  # fmt: skip
        before = self.stores[0].view.managers.get(manager_id)
        step = Create(record) if before is None else Replace(before, record)
        await self.stores[0].commit(Write((step,)))

    async def addresses(self) -> set[str]:
        """Return where the engine has members."""
        members = await self.members[0].engine.membership.members()
        return {member.peer_address for member in members}

    async def gone(self, manager_id: str) -> None:
        """Return once a manager's record says that it is removed."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                stored = self.stores[0].view.managers.get(manager_id)
                assert stored is not None
                if stored.record.state is ManagerState.REMOVED:
                    return
                await asyncio.sleep(0.05)


@pytest.fixture
async def three(tmp_path: Path, seed: int) -> AsyncIterator[Three]:
    async with etcd_cluster(tmp_path, 3) as members:
        lab: StoreLab = await initialised(members[0].engine, seed)
        stores = [await lab.open(f"m{n + 1}", engine=members[n].engine) for n in range(2)]
        three = Three(members, stores)
        for number in (1, 2, 3):
            await three.record(f"m{number}", ManagerState.ACTIVE, three.address(number))
        yield three
        for store in stores:
            await store.close()


async def test_dead_and_running_members_are_taken_out(three: Three) -> None:
    """The manager that goes leaves it to the others, and what an earlier one left is finished."""
    await three.members[2].kill()
    # Its member was taken out by one that crashed before noting it: its record is all there is.
    await three.members[1].engine.campaign(f"{ALIVE_PREFIX}m2", "m2", 10.0)
    await three.record("forgotten", ManagerState.REMOVING, ELSEWHERE)
    await three.record("m2", ManagerState.REMOVING, three.address(2))
    await three.record("m3", ManagerState.REMOVING, three.address(3))
    async with asyncio.timeout(PATIENCE_S):
        leaves = asyncio.create_task(three.departures(2).run())
        stays = asyncio.create_task(three.departures(1).run())
        for manager_id in ("forgotten", "m3", "m2"):
            await three.gone(manager_id)
        for task in (leaves, stays):
            task.cancel()
        await asyncio.gather(leaves, stays, return_exceptions=True)
        assert await three.addresses() == {three.address(1)}
        await three.members[1].member.removed.wait()
        await three.stores[0].barrier()


async def test_member_of_a_successor_stays(three: Three) -> None:
    """A join that was given up names the address of one that was completed."""
    await three.record("given-up", ManagerState.REMOVING, three.address(3))
    running = asyncio.create_task(three.departures(1).run())
    await three.gone("given-up")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert three.address(3) in await three.addresses()
