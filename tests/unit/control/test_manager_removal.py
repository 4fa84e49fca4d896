"""Managers on their way out: who may go, what ends at once, and what waits for the engine."""

import asyncio

import pytest

from cluster.control.manager_removal import ManagerRemoval, leaving_managers
from cluster.control.policy import Principal, Role
from cluster.protocol.errors import Conflict, NotFound, PermissionDenied, Unauthenticated
from cluster.protocol.identity import Kind, SpiffeId
from cluster.protocol.ids import ManagerId
from cluster.store.records import Kind as RecordKind
from cluster.store.records import ManagerRecord, ManagerState, NameRecord, name_id
from tests.unit.control.lab import ADMIN, AUDITOR, MANAGER, TRUST_DOMAIN, ControlLab

ALL = frozenset(map(ManagerId, (MANAGER, "m2", "m3")))


class _Three:
    """Three active managers: the lab's own, called first, and two more."""

    def __init__(self, lab: ControlLab) -> None:
        self.lab = lab
        self.removal = ManagerRemoval(lab.requests)

    async def fill(self) -> None:
        for number in (2, 3):
            await self.lab.write(
                ManagerRecord(
                    id=f"m{number}",
                    name=f"manager-{number}",
                    state=ManagerState.ACTIVE,
                    api_address=f"127.0.0.{number}:7443",
                    join_address=f"127.0.0.{number}:7444",
                    peer_address=f"127.0.0.{number}:7445",
                    joined_at=0.0,
                    serials=(f"a{number}",),
                )
            )
            claim = name_id(RecordKind.MANAGER, f"manager-{number}")
            await self.lab.write(NameRecord(id=claim, owner=f"m{number}"))

    async def begin(self, name: str, alive: frozenset[ManagerId] = ALL) -> dict[str, object]:
        return dict((await self.removal.begin(self.lab.context(), name, alive)).body)

    def state(self, manager_id: str) -> ManagerState:
        stored = self.lab.view.managers.get(manager_id)
        assert stored is not None
        return stored.record.state


@pytest.fixture
async def three(lab: ControlLab) -> _Three:
    three = _Three(lab)
    await three.fill()
    return three


def own() -> Principal:
    """Return the lab's manager."""
    identity = SpiffeId(TRUST_DOMAIN, Kind.MANAGER, MANAGER)
    return Principal(identity, str(identity), Role.MANAGER)


@pytest.mark.threat("T-44")
async def test_removed_manager_is_nobody_before_its_member_is_out(three: _Three) -> None:
    assert three.lab.principal(Kind.MANAGER, "m2", "a2").role is Role.MANAGER
    answer = await three.begin("manager-2")
    assert (answer["id"], answer["state"], answer["managers_left"]) == ("m2", "removing", 2)
    with pytest.raises(Unauthenticated):
        three.lab.principal(Kind.MANAGER, "m2", "a2")
    assert [record.id for record in leaving_managers(three.lab.view)] == ["m2"]


async def test_name_is_free_once_the_member_is_out(three: _Three) -> None:
    claim = name_id(RecordKind.MANAGER, "manager-2")
    await three.begin("manager-2")
    assert three.lab.view.names.get(claim) is not None
    for _ in range(2):
        await three.removal.finish(own(), ManagerId("m2"))
        assert three.state("m2") is ManagerState.REMOVED
        assert three.lab.view.names.get(claim) is None
    with pytest.raises(NotFound):
        await three.begin("manager-2")


async def test_nothing_is_finished_that_was_not_decided(three: _Three) -> None:
    await three.removal.finish(own(), ManagerId("m2"))
    assert three.state("m2") is ManagerState.ACTIVE
    await three.begin("m2")
    with pytest.raises(PermissionDenied):
        await three.removal.finish(ADMIN, ManagerId("m2"))


async def test_deciding_again_answers_the_same(three: _Three) -> None:
    first = await three.begin("manager-2")
    again = await three.begin("m2", frozenset())
    assert {**again, "revision": ""} == {**first, "revision": ""}


@pytest.mark.parametrize("leaves", ["first", "manager-2"])
async def test_majority_of_those_that_stay_must_live(three: _Three, leaves: str) -> None:
    with pytest.raises(Conflict, match=r"1 of 2 managers, and a majority takes 2.*manager-3"):
        await three.begin(leaves, frozenset(map(ManagerId, (MANAGER, "m2"))))
    assert leaving_managers(three.lab.view) == []
    # The dead one itself may go, and afterwards so may any other.
    await three.begin("manager-3", frozenset(map(ManagerId, (MANAGER, "m2"))))
    await three.begin(leaves, frozenset(map(ManagerId, (MANAGER, "m2"))))


async def test_last_manager_stays(three: _Three) -> None:
    await three.begin("manager-2")
    await three.begin("manager-3")
    with pytest.raises(Conflict, match="last manager"):
        await three.begin("first")


async def test_removals_decided_at_once_do_not_count_on_each_other(three: _Three) -> None:
    """Two managers of two are told to go at the same moment: one of them stays."""
    await three.begin("manager-3")
    ended = await asyncio.gather(
        three.begin("first"), three.begin("manager-2"), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in ended) == ["Conflict", "dict"]
    assert len(leaving_managers(three.lab.view)) == 2


async def test_removal_is_for_admins(three: _Three) -> None:
    with pytest.raises(PermissionDenied):
        three.removal.check(AUDITOR, "manager-2")
    with pytest.raises(PermissionDenied):
        await three.removal.begin(three.lab.context(AUDITOR), "manager-2", ALL)
    assert three.state("m2") is ManagerState.ACTIVE
