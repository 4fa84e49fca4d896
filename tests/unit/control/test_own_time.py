"""A calendar that was ahead and came back holds up no wait for longer than it lasts."""

from datetime import timedelta

import msgspec
import pytest

from cluster.control.own_time import OwnTimes
from cluster.control.rotation_steps import attempted, attempted_at_s
from cluster.hook.contract import HookAction
from cluster.store.records import RolloutState, RotationStep, TargetState
from tests.support.clock import ManualClock
from tests.unit.control.rollout_lab import CANARY, Fleet
from tests.unit.control.rotation_lab import RotationLab

AHEAD = timedelta(hours=2)
MONITOR_S, DELAY_S, PATIENCE_S = 10.0, 30.0, 60.0
POLICY = msgspec.structs.replace(
    CANARY, monitor_s=MONITOR_S, delay_s=DELAY_S, patience_s=PATIENCE_S
)


def come_back(clock: ManualClock, by: timedelta = AHEAD) -> None:
    clock.jump(clock.now() - by)


def test_time_is_the_calendars_while_nothing_is_ahead_of_it() -> None:
    clock = ManualClock()
    times, now_s = OwnTimes(clock), clock.now().timestamp()
    assert times.now_s("a", None) == times.now_s("a", now_s - 5.0) == now_s
    clock.jump(clock.now() + AHEAD)
    assert times.now_s("a", now_s) == now_s + AHEAD.total_seconds()


def test_time_goes_on_from_the_newest_moment_and_never_back() -> None:
    clock = ManualClock()
    times, newest_s = OwnTimes(clock), clock.now().timestamp() + 100.0
    assert times.now_s("a", newest_s) == newest_s
    clock.advance(7.0)
    assert times.now_s("a", newest_s) == newest_s + 7.0
    # What is written in this time is its newest moment from then on.
    assert times.now_s("a", newest_s + 7.0) == newest_s + 7.0
    clock.advance(3.0)
    assert times.now_s("a", newest_s + 7.0) == newest_s + 10.0
    assert times.now_s("b", newest_s) == newest_s, "each record has its own"
    # Until the calendar has caught up.
    clock.advance(200.0)
    assert times.now_s("a", newest_s + 7.0) == clock.now().timestamp()


@pytest.mark.parametrize(
    "newest_s",
    [
        pytest.param((100.0, 90.0, 100.0, 90.0), id="a target comes and goes"),
        pytest.param((100.0, 101.0, 102.0, 103.0), id="a further target is healthy at each look"),
    ],
)
def test_time_goes_on_whatever_the_newest_moment_becomes(newest_s: tuple[float, ...]) -> None:
    """Else a wait would begin anew each time, and might never end."""
    clock = ManualClock()
    times, start_s = OwnTimes(clock), clock.now().timestamp()
    told = []
    for moment_s in newest_s:
        told.append(times.now_s("a", start_s + moment_s) - start_s)
        clock.advance(5.0)
    assert told == [100.0, 105.0, 110.0, 115.0]


def test_forgotten_record_begins_anew() -> None:
    clock = ManualClock()
    times, newest_s = OwnTimes(clock), clock.now().timestamp() + 100.0
    times.now_s("a", newest_s)
    times.now_s("b", newest_s)
    clock.advance(5.0)
    times.keep_only({"b"})
    assert times.now_s("a", newest_s) == newest_s
    assert times.now_s("b", newest_s) == newest_s + 5.0


# --- rollouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("another_holder", [False, True])
async def test_groups_follow_each_other_though_the_calendar_came_back(
    fleet: Fleet, another_holder: bool
) -> None:
    """The canary was released, and seen healthy, two hours ahead."""
    clock = fleet.lab.clock
    await fleet.set_up(POLICY)
    clock.jump(clock.now() + AHEAD)
    rollout = await fleet.rotate()
    canary = fleet.changed()
    await fleet.report(canary)
    come_back(clock)
    if another_holder:
        fleet.duty = fleet.lab.duty()
    await fleet.settle()
    clock.advance(MONITOR_S - 1.0)
    await fleet.settle()
    assert target_state(fleet, rollout) is TargetState.RELEASED, "not before its time either"
    clock.advance(1.0)
    await fleet.settle()
    assert target_state(fleet, rollout) is TargetState.DONE
    clock.advance(DELAY_S - 1.0)
    await fleet.settle()
    assert fleet.held() == [1, 1, 2]
    for _ in range(3):
        clock.advance(DELAY_S)
        await fleet.settle()
        await fleet.report()
        clock.advance(MONITOR_S)
        await fleet.settle()
    assert fleet.rollout(rollout).state is RolloutState.FINISHED
    assert fleet.held() == [2, 2, 2]


async def test_patience_ends_though_the_calendar_came_back(fleet: Fleet) -> None:
    clock = fleet.lab.clock
    await fleet.set_up(POLICY)
    clock.jump(clock.now() + AHEAD)
    rollout = await fleet.rotate()
    come_back(clock)
    await fleet.settle()
    clock.advance(PATIENCE_S - 1.0)
    await fleet.settle()
    assert fleet.rollout(rollout).state is RolloutState.RUNNING
    clock.advance(1.0)
    await fleet.settle()
    assert fleet.rollout(rollout).state is RolloutState.ROLLED_BACK


async def test_holder_whose_calendar_is_behind_shortens_no_wait(fleet: Fleet) -> None:
    """What it goes on with and writes is not before what was on record."""
    clock = fleet.lab.clock
    await fleet.set_up(POLICY)
    rollout = await fleet.rotate()
    released_at = fleet.rollout(rollout).targets[0].released_at
    come_back(clock)
    await fleet.settle()
    await fleet.report(fleet.changed())
    (seen,) = (t.healthy_since for t in fleet.rollout(rollout).targets if t.healthy_since)
    assert released_at is not None
    assert seen >= released_at
    clock.jump(clock.now() + AHEAD)
    fleet.duty = fleet.lab.duty()
    await fleet.settle()
    assert target_state(fleet, rollout) is TargetState.RELEASED


def target_state(fleet: Fleet, rollout: str) -> TargetState:
    """Return the state of the canary."""
    (canary,) = (t for t in fleet.rollout(rollout).targets if t.released_at is not None)
    return canary.state


# --- hooks ---------------------------------------------------------------------------------------


async def test_attempts_without_end_are_counted_on(rotating: RotationLab) -> None:
    """Retiring is tried every ten minutes: after a week the wait is still ten minutes."""
    await rotating.start()
    often = msgspec.structs.replace(rotating.rotation, attempts=5_000)
    assert attempted(often, 1_000.0).next_try_at == 1_600.0
    assert attempted_at_s(attempted(often, 1_000.0)) == 1_000.0


async def test_hook_is_called_again_though_the_calendar_came_back(rotating: RotationLab) -> None:
    clock = rotating.control.clock
    rotating.party.refuses.add(HookAction.PREPARE)
    clock.jump(clock.now() + AHEAD)
    await rotating.start()
    duty = rotating.duty()
    while rotating.rotation.attempts < 1:
        await duty.round()
    rotating.party.refuses.clear()
    come_back(clock)
    await duty.round()
    assert rotating.rotation.step is RotationStep.PREPARE, "not before its time"
    clock.advance(2.0)
    await duty.round()
    assert rotating.rotation.step is not RotationStep.PREPARE
