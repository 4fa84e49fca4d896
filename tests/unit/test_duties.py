"""Duties: one manager at a time performs them, and a holder that was replaced cannot write."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from cluster.control.policy import Principal, Role
from cluster.dispatcher.presence import mark_down
from cluster.duties import ALIVE_PREFIX, ORPHAN_AFTER_S, Duties
from cluster.engine.seam import Engine
from cluster.protocol.errors import Conflict, NoQuorum
from cluster.protocol.identity import Kind, SpiffeId
from cluster.protocol.ids import ManagerId, NodeId
from cluster.store.records import NodeState
from tests.support.stores import StoreLab, sqlite_lab
from tests.unit.control.lab import TRUST_DOMAIN, ControlLab

PATIENCE_S = 30.0


class EngineWithoutHolders:
    """A port to a real engine that can fail to say who holds what."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.fail_next = 0
        self.asked = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    async def holders(self) -> dict[str, str]:
        """Pass on, or fail as without a quorum."""
        self.asked += 1
        if self.fail_next:
            self.fail_next -= 1
            raise NoQuorum
        return await self._engine.holders()


@pytest.fixture
async def stores(tmp_path: Path, seed: int) -> AsyncIterator[StoreLab]:
    async with sqlite_lab(tmp_path, seed) as lab:
        yield lab


@pytest.fixture
async def lab(stores: StoreLab) -> ControlLab:
    lab = ControlLab(stores, await stores.open("m1"))
    await lab.initialise()
    return lab


def duties_of(lab: ControlLab, engine: Engine, name: str = "m1") -> Duties:
    identity = SpiffeId(TRUST_DOMAIN, Kind.MANAGER, name)
    principal = Principal(identity, str(identity), Role.MANAGER)
    return Duties(engine, lab.store, principal, lab.clock, ManagerId(name))


@asynccontextmanager
async def running(*tasks: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def placed(lab: ControlLab, service: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not lab.placed(service):  # noqa: ASYNC110  # polled, as a person would
            await asyncio.sleep(0.01)


def state(lab: ControlLab, node_id: NodeId) -> NodeState:
    stored = lab.view.node_statuses.get(node_id)
    assert stored is not None
    return stored.record.state


async def test_holder_places_and_lets_go_when_it_stops(lab: ControlLab, stores: StoreLab) -> None:
    await lab.join("one")
    duties = duties_of(lab, stores.engine)
    async with running(asyncio.create_task(duties.run())):
        await lab.service("red")
        await placed(lab, "red")
        assert (await stores.engine.holders())["placement"] == "m1"
    assert "placement" not in await stores.engine.holders()


async def test_duty_that_failed_is_given_up_and_taken_again(
    lab: ControlLab, stores: StoreLab
) -> None:
    """Whoever kept it would wait for himself, and nothing would ever be placed again."""
    engine = EngineWithoutHolders(stores.engine)
    engine.fail_next = 1
    await lab.join("one")
    duties = duties_of(lab, cast("Engine", engine))
    async with running(asyncio.create_task(duties.run())):
        await lab.service("red")
        await placed(lab, "red")
    assert engine.asked > 1


async def test_duty_goes_to_others_while_this_manager_cannot_write_and_is_taken_again(
    lab: ControlLab, stores: StoreLab
) -> None:
    able = True
    duties = replace(duties_of(lab, stores.engine), is_able=lambda: able)

    async def held(by: str | None) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while (await stores.engine.holders()).get("placement") != by:  # noqa: ASYNC110  # polled
                await asyncio.sleep(0.01)

    async with running(asyncio.create_task(duties.run())):
        await held("m1")
        able = False
        await held(None)
        other = await stores.engine.campaign("placement", "m2", 5.0)
        able = True
        await other.resign()
        await held("m1")


async def test_sign_of_life_stands_while_the_manager_runs(
    lab: ControlLab, stores: StoreLab
) -> None:
    duties = duties_of(lab, stores.engine)
    async with running(asyncio.create_task(duties.stay_alive())), asyncio.timeout(PATIENCE_S):
        while ALIVE_PREFIX + "m1" not in await stores.engine.holders():  # noqa: ASYNC110  # polled
            await asyncio.sleep(0.01)


async def test_nodes_of_a_dead_manager_are_down_unless_they_come_back(
    lab: ControlLab, stores: StoreLab
) -> None:
    lost, back = await lab.join("lost", ready=False), await lab.join("back", ready=False)
    for node_id in (lost, back):
        await lab.state(node_id, NodeState.READY, manager_id=ManagerId("dead"))
    guard = (await stores.engine.campaign("placement", "m1", 5.0)).guard
    duties = duties_of(lab, stores.engine)
    await duties._look_for_orphans(guard)
    await lab.state(back, NodeState.READY, manager_id=ManagerId("m1"))
    lab.clock.advance(ORPHAN_AFTER_S - 1)
    await duties._look_for_orphans(guard)
    assert state(lab, lost) is NodeState.READY
    lab.clock.advance(1)
    await duties._look_for_orphans(guard)
    assert (state(lab, lost), state(lab, back)) == (NodeState.DOWN, NodeState.READY)


async def test_holder_that_was_replaced_cannot_write(lab: ControlLab, stores: StoreLab) -> None:
    node_id = await lab.join("one")
    status = lab.view.node_statuses.get(node_id)
    assert status is not None
    duty = await stores.engine.campaign("placement", "m1", 5.0)
    await duty.resign()
    await stores.engine.campaign("placement", "m2", 5.0)
    with pytest.raises(Conflict):
        await mark_down(lab.store, status.record, lab.clock, (duty.guard,))
    assert state(lab, node_id) is NodeState.READY
