"""Schedules, and what operators may ask of rotations, over a real store."""

import asyncio

import msgspec
import pytest

from cluster.control.rotation_duty import MAX_OPEN, OVERDUE_S
from cluster.control.scheduled import RotationDraft, ScheduleDraft
from cluster.hook.contract import HookAction
from cluster.protocol.errors import (
    InvalidRequest,
    NotFound,
    PermissionDenied,
    SecretInUse,
)
from cluster.store.records import (
    RotationStep,
)
from tests.unit.control.lab import DEPLOYER, ControlLab
from tests.unit.control.rotation_lab import EVERY_S, RotationLab

PREPARE, CONFIRM, RETIRE, ROLLBACK = (
    HookAction.PREPARE,
    HookAction.CONFIRM,
    HookAction.RETIRE,
    HookAction.ROLLBACK,
)


# --- the schedule -----------------------------------------------------------------------------


async def test_schedule_rotates_by_itself_once_a_time(rotating: RotationLab) -> None:
    await rotating.carry_out(moves=2)
    assert len(rotating.control.view.rotations) == 0
    rotating.control.clock.advance(EVERY_S)
    await rotating.carry_out(moves=40, step_s=5)
    assert rotating.secret.primary.number == 2
    assert rotating.rotation.started_by == "schedule"


async def test_long_outage_is_followed_by_one_rotation(rotating: RotationLab) -> None:
    rotating.control.clock.advance(10 * EVERY_S + OVERDUE_S)
    await rotating.carry_out(moves=40, step_s=5)
    assert rotating.secret.primary.number == 2
    schedule = rotating.secret.schedule
    assert schedule is not None
    assert schedule.next_at is not None
    left_s = schedule.next_at - rotating.control.clock.now().timestamp()
    assert 0.9 * EVERY_S < left_s <= EVERY_S


async def test_failed_rotation_is_followed_by_the_next_of_the_schedule(
    rotating: RotationLab,
) -> None:
    rotating.party.refuses.add(PREPARE)
    rotating.control.clock.advance(EVERY_S)
    await rotating.carry_out(moves=40, step_s=10)
    assert rotating.rotation.step is RotationStep.FAILED
    rotating.party.refuses.clear()
    rotating.control.clock.advance(EVERY_S)
    # What is overdue begins within SPREAD_S, at a moment that the seed decides.
    await rotating.carry_out(moves=40, step_s=5)
    # Numbers are never used again: 2 was the one that failed.
    assert (rotating.rotation.step, rotating.secret.primary.number) == (RotationStep.DONE, 3)
    assert len(rotating.control.view.rotations) == 1


async def test_rotation_without_a_hook_ends_with_its_rollout(lab: ControlLab) -> None:
    rotating = RotationLab(lab)
    await rotating.initialise(hook="")
    await rotating.start()
    await rotating.carry_out()
    assert rotating.party.told == []
    assert (rotating.rotation.step, rotating.secret.primary.number) == (RotationStep.DONE, 2)
    value = rotating.value()
    assert value is not None
    assert len(value) == 32


# --- asking -----------------------------------------------------------------------------------


async def test_second_start_joins_the_first(rotating: RotationLab) -> None:
    first, second = await rotating.start(), await rotating.start()
    assert first == second
    assert len(rotating.control.view.rotations) == 1


async def test_two_managers_start_one_rotation(rotating: RotationLab, second: ControlLab) -> None:
    other = RotationLab(second)
    await asyncio.gather(rotating.start(), other.start())
    assert len(rotating.control.view.rotations) == 1


async def test_start_behind_a_pushed_rotation_queues(rotating: RotationLab) -> None:
    await rotating.start()
    duty = rotating.duty()
    for _ in range(4):
        await duty.round()
    answer = await rotating.scheduled.start(rotating.control.context(), "db")
    assert answer.body["queued"] is True
    await rotating.carry_out(moves=30)
    assert rotating.secret.primary.number == 3


async def test_start_without_a_schedule_says_how(rotating: RotationLab) -> None:
    await rotating.control.secret("other")
    context = rotating.control.context()
    with pytest.raises(InvalidRequest, match="--generate"):
        await rotating.scheduled.start(context, "other")
    draft = RotationDraft(generator="hex")
    await rotating.scheduled.start(rotating.control.context(), "other", draft)
    await rotating.carry_out()
    stored = rotating.control.view.secret_by_name("other")
    assert stored is not None
    assert stored.record.primary.size == 64


@pytest.mark.parametrize("moves", range(5))
async def test_rotation_that_is_given_up_leaves_the_old_version(
    rotating: RotationLab, moves: int
) -> None:
    await rotating.start()
    duty = rotating.duty()
    for _ in range(moves):
        await duty.round()
    await rotating.scheduled.give_up(rotating.control.context(), "db")
    await rotating.carry_out(moves=20, step_s=1)
    assert rotating.rotation.step is RotationStep.FAILED
    assert (rotating.secret.primary.number, rotating.value()) == (1, b"first")
    assert rotating.party.accepted == {b"first"}
    with pytest.raises(NotFound):
        await rotating.scheduled.give_up(rotating.control.context(), "db")


@pytest.mark.parametrize(
    "draft",
    [
        ScheduleDraft(every_s=59),
        ScheduleDraft(every_s=-1),
        ScheduleDraft(every_s=float("nan")),
        ScheduleDraft(every_s=367 * 86_400),
        ScheduleDraft(generator="dice"),
        ScheduleDraft(length=1),
        ScheduleDraft(hook="unknown"),
    ],
)
async def test_bad_schedule_is_refused_and_changes_nothing(
    rotating: RotationLab, draft: ScheduleDraft
) -> None:
    rotating.party.unknown.add("unknown")
    before = rotating.secret
    with pytest.raises(InvalidRequest):
        await rotating.scheduled.set_schedule(rotating.control.context(), "db", draft)
    assert rotating.secret == before


async def test_overlap_longer_than_the_interval_is_refused(rotating: RotationLab) -> None:
    await rotating.control.write(msgspec.structs.replace(rotating.secret, overlap_s=EVERY_S))
    with pytest.raises(InvalidRequest, match="overlap"):
        await rotating.scheduled.set_schedule(
            rotating.control.context(), "db", ScheduleDraft(every_s=3600)
        )


async def test_deployer_names_no_hook(rotating: RotationLab) -> None:
    """A hook acts at the third party with the manager's rights, whoever owns the secret."""
    control = rotating.control
    await control.secret("red", b"v", team="red")
    await rotating.scheduled.set_schedule(
        control.context(DEPLOYER), "red", ScheduleDraft(every_s=3600, generator="hex")
    )
    with pytest.raises(PermissionDenied):
        await rotating.scheduled.set_schedule(
            control.context(DEPLOYER), "red", ScheduleDraft(hook="party")
        )


async def test_secret_is_not_removed_while_it_rotates(rotating: RotationLab) -> None:
    control = rotating.control
    await control.services.remove(control.context(), "web")
    rotating.party.refuses.add(PREPARE)
    await rotating.start()
    await rotating.duty().round()
    with pytest.raises(SecretInUse, match="give-up"):
        await control.secrets.remove(control.context(), "db")
    await rotating.scheduled.give_up(control.context(), "db")
    await rotating.duty().round()
    await control.settle(control.duty())
    await control.secrets.remove(control.context(), "db")
    assert (len(control.view.rotations), len(control.view.secret_values)) == (0, 0)


async def test_morning_after_an_outage_is_no_storm(lab: ControlLab) -> None:
    rotating = RotationLab(lab)
    for number in range(MAX_OPEN + 4):
        await lab.secret(f"s{number}")
        draft = ScheduleDraft(every_s=3600, generator="hex")
        await rotating.scheduled.set_schedule(lab.context(), f"s{number}", draft)
    lab.clock.advance(EVERY_S)
    duty = rotating.duty()
    most = 0
    for _ in range(40):
        await duty.round()
        unfinished = [s for s in lab.view.rotations.values() if not s.record.finished_at]
        most = max(most, len(unfinished))
        lab.clock.advance(2)
    assert 0 < most <= MAX_OPEN
    assert {s.record.primary.number for s in lab.view.secrets.values()} == {2}
