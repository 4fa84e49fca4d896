"""Rotations whose manager dies between any two writes: nothing in use is ever refused.

The third party and the files disagree at no moment: whatever version a node may hold is accepted
there. Each death leaves the record as it was; the next holder of the duty goes on from it.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.hook.contract import HookAction
from cluster.store.records import RotationStep
from cluster.store.steps import Write
from tests.support.stores import sqlite_lab
from tests.unit.control.lab import ControlLab
from tests.unit.control.rotation_lab import RotationLab

PREPARE, CONFIRM, RETIRE, ROLLBACK = (
    HookAction.PREPARE,
    HookAction.CONFIRM,
    HookAction.RETIRE,
    HookAction.ROLLBACK,
)
MOST_WRITES = 40


class Died(Exception):  # noqa: N818  # it is no error
    """The manager was killed."""


class Mortal:
    """A manager that dies before its n-th write, and everything after it works."""

    def __init__(self, rotating: RotationLab, dies_before: int) -> None:
        self.rotating = rotating
        self.left = dies_before
        self.died = False

    def guarded(self, write: Write) -> Write:
        self.left -= 1
        if self.left == 0:
            self.died = True
            raise Died
        return write

    async def go_on(self) -> None:
        """Let everybody go on to the end, checking at every step."""
        duty = self.rotating.duty(self.guarded)
        for _ in range(MOST_WRITES):
            try:
                await duty.round()
            except Died:
                duty = self.rotating.duty()
            self.check()
            await self.rotating.apply()
            self.check()
            self.rotating.control.clock.advance(7)
            if self.rotating.rotation.finished_at is not None:
                return

    def check(self) -> None:
        """Whatever is issued now is accepted by the third party, and there is one rotation."""
        assert self.rotating.value() in self.rotating.party.accepted
        unfinished = [
            s for s in self.rotating.control.view.rotations.values() if not s.record.finished_at
        ]
        assert len(unfinished) <= 1
        if self.rotating.rotation.step in {RotationStep.GENERATE, RotationStep.PREPARE}:
            assert self.rotating.secret.primary.number == 1


@pytest.fixture
async def rotating(tmp_path: Path, seed: int) -> AsyncIterator[RotationLab]:
    async with sqlite_lab(tmp_path, seed) as stores:
        control = ControlLab(stores, await stores.open("m1"))
        await control.initialise()
        rotating = RotationLab(control)
        await rotating.initialise()
        yield rotating


@pytest.mark.parametrize("dies_before", range(1, 9))
async def test_rotation_survives_its_manager(rotating: RotationLab, dies_before: int) -> None:
    operation = await rotating.start()
    mortal = Mortal(rotating, dies_before)
    await mortal.go_on()
    assert mortal.died
    assert rotating.rotation.step is RotationStep.DONE
    assert rotating.secret.primary.number == 2
    assert rotating.party.accepted == {rotating.value()}
    assert {told.operation for told in rotating.party.told} == {operation}
    assert {told.version for told in rotating.party.told} == {2}
    _check_order(rotating, [PREPARE, CONFIRM, RETIRE])


@pytest.mark.parametrize("dies_before", range(2, 22, 3))
async def test_failed_confirmation_survives_its_manager(
    rotating: RotationLab, dies_before: int
) -> None:
    rotating.party.refuses.add(CONFIRM)
    await rotating.start()
    await Mortal(rotating, dies_before).go_on()
    assert rotating.rotation.step is RotationStep.FAILED
    assert (rotating.secret.primary.number, rotating.value()) == (1, b"first")
    assert rotating.party.accepted == {b"first"}
    _check_order(rotating, [PREPARE, CONFIRM, ROLLBACK])


@pytest.mark.parametrize("dies_before", range(1, 14, 3))
async def test_lost_answers_and_a_death_leave_the_old_version(
    rotating: RotationLab, dies_before: int
) -> None:
    rotating.party.lost.add(PREPARE)
    await rotating.start()
    await Mortal(rotating, dies_before).go_on()
    assert rotating.rotation.step is RotationStep.FAILED
    assert rotating.value(2) is None
    assert rotating.party.accepted == {b"first"}
    _check_order(rotating, [PREPARE, ROLLBACK])


def _check_order(rotating: RotationLab, actions: list[HookAction]) -> None:
    """A hook is told each action once or more, and never goes back."""
    told = rotating.party.actions()
    assert sorted(told, key=actions.index) == told
    assert set(told) == set(actions)
