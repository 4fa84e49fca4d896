"""Rotations that the cluster carries out, over a real store, with a third party at the port."""

import asyncio
from dataclasses import replace

import msgspec
import pytest

from cluster.control.rotation_duty import OVERDUE_S
from cluster.control.rotation_steps import ATTEMPTS
from cluster.control.scheduled import RotationDraft, ScheduleDraft
from cluster.control.service_draft import ReferenceDraft
from cluster.hook.contract import HookAction
from cluster.protocol.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    SecretInUse,
)
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import NodeState, RotationStep, VersionState
from cluster.store.steps import Write
from tests.support.stores import StoreLab
from tests.unit.control.lab import DEPLOYER, ControlLab
from tests.unit.control.rotation_lab import EVERY_S, RotationLab

PREPARE, CONFIRM, RETIRE, ROLLBACK = (
    HookAction.PREPARE,
    HookAction.CONFIRM,
    HookAction.RETIRE,
    HookAction.ROLLBACK,
)


@pytest.fixture
async def rotating(lab: ControlLab) -> RotationLab:
    rotating = RotationLab(lab)
    await rotating.initialise()
    return rotating


async def test_rotation_changes_the_third_party_before_and_after(rotating: RotationLab) -> None:
    operation = await rotating.start()
    await rotating.carry_out()
    assert rotating.party.actions() == [PREPARE, CONFIRM, RETIRE]
    assert {told.operation for told in rotating.party.told} == {operation}
    assert rotating.rotation.step is RotationStep.DONE
    assert (rotating.secret.primary.number, rotating.state(1)) == (2, VersionState.RETIRED)
    assert rotating.party.accepted == {rotating.value()}


async def test_old_version_is_primary_until_the_third_party_is_prepared(
    rotating: RotationLab,
) -> None:
    rotating.party.refuses.add(PREPARE)
    await rotating.start()
    await rotating.carry_out(moves=3)
    assert (rotating.secret.primary.number, rotating.value()) == (1, b"first")
    assert rotating.rotation.error == "prepare: the hook ended with exit status 1"


async def test_failed_preparation_is_taken_back(rotating: RotationLab) -> None:
    """Also what was carried out, and whose answer was lost."""
    rotating.party.lost.add(PREPARE)
    await rotating.start()
    await rotating.carry_out(moves=30, step_s=10)
    assert rotating.party.actions() == [*[PREPARE] * ATTEMPTS, ROLLBACK]
    assert rotating.rotation.step is RotationStep.FAILED
    assert rotating.rotation.error.startswith("prepare: the hook did not end")
    assert rotating.secret.primary.number == 1
    assert rotating.value(2) is None
    assert rotating.party.accepted == {b"first"}


async def test_unconfirmed_version_gives_way_to_the_one_before(rotating: RotationLab) -> None:
    rotating.party.refuses.add(CONFIRM)
    await rotating.start()
    await rotating.carry_out(moves=60, step_s=10)
    assert rotating.party.actions() == [PREPARE, *[CONFIRM] * ATTEMPTS, ROLLBACK]
    assert rotating.rotation.step is RotationStep.FAILED
    assert (rotating.secret.primary.number, rotating.value()) == (1, b"first")
    assert rotating.state(2) is VersionState.RETIRED
    assert rotating.party.accepted == {b"first"}


async def test_version_before_keeps_its_value_until_the_third_party_confirmed(
    rotating: RotationLab,
) -> None:
    """With `--keep 0` too: there is a way back as long as one may be needed."""
    await rotating.control.write(msgspec.structs.replace(rotating.secret, keep=0))
    rotating.party.refuses.add(CONFIRM)
    await rotating.start()
    await rotating.carry_out(moves=60, step_s=10)
    assert (rotating.secret.primary.number, rotating.value()) == (1, b"first")


async def test_refused_retirement_is_told_and_tried_until_the_next_rotation(
    rotating: RotationLab,
) -> None:
    rotating.party.refuses.add(RETIRE)
    await rotating.start()
    await rotating.carry_out(moves=20, step_s=600)
    assert rotating.rotation.step is RotationStep.RETIRE
    assert rotating.secret.primary.number == 2
    assert rotating.rotation.error == "retire: the hook ended with exit status 1"
    rotating.control.clock.advance(EVERY_S)
    rotating.party.refuses.clear()
    await rotating.carry_out(moves=20, step_s=10)
    assert (rotating.secret.primary.number, rotating.rotation.step) == (3, RotationStep.DONE)


async def test_confirmation_waits_for_every_node_that_is_up(rotating: RotationLab) -> None:
    await rotating.start()
    duty = rotating.duty()
    for _ in range(6):
        await duty.round()
    assert rotating.secret.primary.number == 2
    assert rotating.party.actions() == [PREPARE]
    await rotating.apply()
    await duty.round()
    assert rotating.party.actions() == [PREPARE, CONFIRM]


async def test_node_that_is_down_holds_nothing_up(rotating: RotationLab) -> None:
    await rotating.start()
    await rotating.control.state(rotating.node_id, NodeState.DOWN)
    duty = rotating.duty()
    for _ in range(6):
        await duty.round()
    assert rotating.party.actions() == [PREPARE, CONFIRM, RETIRE]


async def test_old_credential_is_retired_after_the_overlap(rotating: RotationLab) -> None:
    await rotating.control.write(msgspec.structs.replace(rotating.secret, overlap_s=600.0))
    await rotating.start()
    await rotating.carry_out()
    assert rotating.party.actions() == [PREPARE, CONFIRM]
    assert rotating.state(1) is VersionState.ACTIVE
    rotating.control.clock.advance(601)
    await rotating.carry_out()
    assert rotating.party.actions() == [PREPARE, CONFIRM, RETIRE]


async def test_rotation_by_hand_wins(rotating: RotationLab) -> None:
    control = rotating.control
    rotating.party.refuses.add(PREPARE)
    await rotating.start()
    await rotating.carry_out(moves=2)
    await control.secrets.rotate(control.context(), "db", SecretBytes(b"by hand"))
    await rotating.carry_out()
    assert rotating.rotation.step is RotationStep.FAILED
    assert rotating.value() == b"by hand"
    assert rotating.party.actions()[-1] is ROLLBACK
    assert rotating.value(2) is None


async def test_pinned_version_ends_a_rotation_and_is_named(rotating: RotationLab) -> None:
    await rotating.control.service("old", references=(ReferenceDraft("db", version=1),), uid=1001)
    await rotating.start()
    await rotating.carry_out()
    assert rotating.party.actions() == [PREPARE, CONFIRM]
    assert rotating.rotation.step is RotationStep.DONE
    assert "pinned" in rotating.rotation.error


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
    await rotating.carry_out(moves=30, step_s=1)
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


# --- duty ---------------------------------------------------------------------------------------


async def test_holder_that_was_replaced_writes_nothing(
    rotating: RotationLab, stores: StoreLab
) -> None:
    first = await stores.engine.campaign("placement", "m1", 5.0)
    await rotating.start()

    def guarded(write: Write) -> Write:
        return replace(write, guards=(first.guard,))

    duty = rotating.duty(guarded)
    await duty.round()
    assert rotating.rotation.step is RotationStep.PREPARE
    await first.resign()
    with pytest.raises(Conflict):
        await asyncio.wait_for(duty.run(), 20)
    assert rotating.party.told == []


async def test_hook_is_told_only_what_is_on_record(rotating: RotationLab) -> None:
    """The record comes first, for a third party as for a node."""
    written: list[Write] = []

    def guarded(write: Write) -> Write:
        written.append(write)
        return write

    await rotating.start()
    duty = rotating.duty(guarded)
    await duty.round()
    assert rotating.party.told == []
    await duty.round()
    details = [entry.detail for write in written for entry in write.audit]
    assert [d for d in details if "hook party is told prepare of version 2" in d]
    assert {entry.action for write in written for entry in write.audit} == {"rotation.step"}


async def test_running_duty_needs_nobody(rotating: RotationLab) -> None:
    running = asyncio.create_task(rotating.duty().run())
    try:
        await rotating.start()
        async with asyncio.timeout(20):
            while rotating.secret.primary.number == 1:  # noqa: ASYNC110  # polled, as a person would
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.wait([running])
