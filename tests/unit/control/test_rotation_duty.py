"""Rotations that the cluster carries out, over a real store, with a third party at the port."""

import asyncio
from dataclasses import replace

import msgspec
import pytest

from cluster.control.evict_rotate import Evictions
from cluster.control.retirement import MAX_ACTIVE
from cluster.control.rotation_steps import ATTEMPTS
from cluster.control.scheduled import RotationDraft
from cluster.control.service_draft import ReferenceDraft
from cluster.control.update_draft import UpdateDraft
from cluster.hook.contract import HookAction
from cluster.protocol.errors import (
    Conflict,
)
from cluster.protocol.ids import ManagerId, SecretId, ServiceId, VersionNumber
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import (
    FailureAction,
    NodeState,
    ReceiptRecord,
    RotationStep,
    VersionState,
    receipt_id,
)
from cluster.store.steps import Write
from tests.support.stores import StoreLab
from tests.unit.control.lab import MANAGER, drafted
from tests.unit.control.rotation_lab import EVERY_S, MOVES, RotationLab

PREPARE, CONFIRM, RETIRE, ROLLBACK = (
    HookAction.PREPARE,
    HookAction.CONFIRM,
    HookAction.RETIRE,
    HookAction.ROLLBACK,
)


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


async def test_rollout_that_goes_back_takes_the_third_party_along(
    rotating: RotationLab,
) -> None:
    control = rotating.control
    await _gate(rotating, FailureAction.ROLLBACK)
    await rotating.start()
    duty = rotating.duty()
    for _ in range(4):
        await duty.round()
    assert rotating.secret.primary.number == 2
    await control.mounted("web", rotating.node_id, {"db": 1}, error="it refuses the credential")
    await control.settle(control.duty())
    assert rotating.secret.primary.number == 1
    assert rotating.party.actions() == [PREPARE]
    await rotating.carry_out(moves=20, step_s=2)
    assert rotating.party.actions() == [PREPARE, ROLLBACK]
    assert rotating.rotation.step is RotationStep.FAILED
    assert rotating.party.accepted == {b"first"}


async def test_paused_rollout_waits_for_an_operator(rotating: RotationLab) -> None:
    control = rotating.control
    await _gate(rotating, FailureAction.PAUSE)
    await rotating.start()
    duty = rotating.duty()
    for _ in range(4):
        await duty.round()
    await control.mounted("web", rotating.node_id, {"db": 1}, error="it refuses the credential")
    await control.settle(control.duty())
    for _ in range(4):
        await duty.round()
    assert rotating.party.actions() == [PREPARE]
    assert rotating.rotation.step is RotationStep.CONFIRM
    await rotating.scheduled.give_up(control.context(), "db")
    await rotating.carry_out(moves=20, step_s=2)
    assert (rotating.secret.primary.number, rotating.value()) == (1, b"first")
    assert rotating.party.actions() == [PREPARE, ROLLBACK]


async def _gate(rotating: RotationLab, action: FailureAction) -> None:
    """Let the service's changes go out one by one, and stop when one fails."""
    control = rotating.control
    draft = drafted("web", "db", update=UpdateDraft(canary=1, on_failure=action))
    await control.services.update(control.context(), "web", draft)
    await control.settle(control.duty())
    await rotating.apply()
    control.clock.advance(1)
    await rotating.apply()


async def test_eviction_rotates_what_the_node_held(rotating: RotationLab) -> None:
    control = rotating.control
    evictions = Evictions(control.requests, control.nodes, rotating.scheduled)
    await control.write(_receipt(rotating))
    answer = await evictions.evict(control.context(), "n1", rotate=True)
    assert (answer.body["rotating"], answer.body["must_rotate"]) == (1, 0)
    await control.settle(control.duty())
    duty = rotating.duty()
    for _ in range(MOVES):
        await duty.round()
        await control.settle(control.duty())
    assert rotating.party.actions() == [PREPARE, CONFIRM, RETIRE]
    assert rotating.party.accepted == {rotating.value(2)}


def _receipt(rotating: RotationLab) -> ReceiptRecord:
    service = rotating.control.view.service_by_name("web")
    assert service is not None
    secret_id, service_id = SecretId(rotating.secret.id), ServiceId(service.record.id)
    first = VersionNumber(1)
    return ReceiptRecord(
        id=receipt_id(secret_id, first, rotating.node_id, service_id),
        secret_id=secret_id,
        version=first,
        node_id=rotating.node_id,
        service_id=service_id,
        issued_at=0.0,
        issued_by=ManagerId(MANAGER),
    )


async def test_pinned_version_ends_a_rotation_and_is_named(rotating: RotationLab) -> None:
    await rotating.control.service("old", references=(ReferenceDraft("db", version=1),), uid=1001)
    await rotating.start()
    await rotating.carry_out()
    assert rotating.party.actions() == [PREPARE, CONFIRM]
    assert rotating.rotation.step is RotationStep.DONE
    assert "pinned" in rotating.rotation.error


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


async def test_secret_with_too_many_active_versions_is_not_rotated(rotating: RotationLab) -> None:
    control = rotating.control
    await control.write(msgspec.structs.replace(rotating.secret, overlap_s=600.0))
    for number in range(MAX_ACTIVE):
        await control.secrets.rotate(control.context(), "db", SecretBytes(b"%d" % number))
    rotating.party.accepted.add(rotating.value() or b"")
    await rotating.start()
    await rotating.carry_out()
    assert rotating.rotation.step is RotationStep.FAILED
    assert "active versions" in rotating.rotation.error
    assert rotating.party.actions() == [PREPARE, ROLLBACK]
    assert rotating.secret.primary.number == MAX_ACTIVE + 1


async def test_hook_that_hangs_holds_up_its_own_secret_alone(rotating: RotationLab) -> None:
    control = rotating.control
    rotating.party.hangs = asyncio.Event()
    await control.secret("other")
    await rotating.start()
    running = asyncio.create_task(rotating.duty().run())
    try:
        async with asyncio.timeout(20):
            while not rotating.party.told:  # noqa: ASYNC110  # polled, as a person would
                await asyncio.sleep(0.01)
            context = control.context()
            await rotating.scheduled.start(context, "other", RotationDraft(generator="hex"))
            while _primary(rotating, "other") == 1:  # noqa: ASYNC110  # polled
                await asyncio.sleep(0.01)
            assert rotating.secret.primary.number == 1
            rotating.party.hangs.set()
            while rotating.secret.primary.number == 1:  # noqa: ASYNC110  # polled
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.wait([running])


def _primary(rotating: RotationLab, name: str) -> int:
    stored = rotating.control.view.secret_by_name(name)
    assert stored is not None
    return stored.record.primary.number
