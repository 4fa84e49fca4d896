"""Which request a record remembers as the one that made it, and what that costs."""

from typing import Any

import msgspec
import pytest

from cluster.control.rollout_actions import RolloutActions
from cluster.hook.contract import HookAction
from cluster.protocol.ids import is_id
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.padding import padded_size
from cluster.store.records import (
    Record,
    RotationRecord,
    SecretRecord,
    ServiceRecord,
    VersionedRecord,
    VersionState,
)
from cluster.store.records.codec import decode, encode
from cluster.store.steps import Write
from tests.unit.control.lab import ControlLab, drafted
from tests.unit.control.rollout_lab import Fleet
from tests.unit.control.rotation_lab import EVERY_S, RotationLab

GROWTH = len(msgspec.msgpack.encode("request_id")) + len(msgspec.msgpack.encode("a" * 26))


def secret(lab: ControlLab, name: str = "db") -> VersionedRecord:
    stored = lab.view.secret_by_name(name)
    assert stored is not None
    return stored.record


def service(lab: ControlLab, name: str = "app") -> ServiceRecord:
    stored = lab.view.service_by_name(name)
    assert stored is not None
    return stored.record


def behind(lab: ControlLab) -> dict[int, str]:
    """Return the request that each version of `db` remembers."""
    return {one.number: one.request_id for one in secret(lab).versions}


async def test_a_version_remembers_who_made_it_primary_and_forgets_when_it_is_retired(
    lab: ControlLab,
) -> None:
    create, rotate, back = lab.context(), lab.context(), lab.context()
    await lab.secrets.create(create, "db", {}, SecretBytes(b"one"))
    await lab.secrets.rotate(rotate, "db", SecretBytes(b"two"))
    assert behind(lab) == {1: create.request_id, 2: rotate.request_id}
    await lab.settle(lab.duty())
    assert secret(lab).versions[0].state is VersionState.RETIRED
    assert behind(lab) == {1: "", 2: rotate.request_id}
    await lab.versions.rollback(back, "db")
    await lab.settle(lab.duty())
    assert behind(lab) == {1: back.request_id, 2: ""}


async def test_a_service_remembers_who_gave_it_its_spec(lab: ControlLab) -> None:
    fleet = Fleet(lab)
    await fleet.set_up()
    await lab.secret("further")
    update = lab.context()
    await lab.services.update(update, "app", fleet.draft("db", "further"))
    assert service(lab).request_id == update.request_id
    await fleet.settle()
    (rollout,) = [one for one in lab.view.rollouts.values() if one.record.finished_at is None]
    back = lab.context()
    await RolloutActions(lab.requests).rollback(back, rollout.record.id)
    assert service(lab).request_id == back.request_id


async def test_what_a_rollout_takes_back_on_request_names_that_request(lab: ControlLab) -> None:
    fleet = Fleet(lab)
    await fleet.set_up()
    rollout, back = await fleet.rotate(), lab.context()
    await RolloutActions(lab.requests).rollback(back, rollout)
    assert secret(lab).primary.number == 1
    assert secret(lab).primary.request_id == back.request_id


async def test_what_a_rollout_takes_back_by_itself_names_none(lab: ControlLab) -> None:
    fleet = Fleet(lab)
    await fleet.set_up()
    await fleet.rotate()
    await lab.mounted("app", fleet.changed(), {"db": 2}, error="refused")
    await fleet.settle()
    assert secret(lab).primary.number == 1
    assert secret(lab).primary.request_id == ""


class _Kept:
    """Guards a duty's writes and keeps the ids of the requests in their audit entries."""

    def __init__(self) -> None:
        self.request_ids: set[str] = set()

    def guarded(self, write: Write) -> Write:
        self.request_ids |= {entry.request_id for entry in write.audit}
        return write


@pytest.mark.parametrize("failing", [False, True])
async def test_a_rotation_hands_the_id_of_its_request_on(
    rotating: RotationLab, *, failing: bool
) -> None:
    """To its version, to the audit of each of its steps, and to what it makes primary again."""
    if failing:
        rotating.party.refuses.add(HookAction.CONFIRM)
    context, kept = rotating.control.context(), _Kept()
    await rotating.scheduled.start(context, "db")
    duty = rotating.duty(kept.guarded)
    for _ in range(60):
        await duty.round()
        await rotating.apply()
        rotating.control.clock.advance(10)
    assert rotating.secret.primary.number == (1 if failing else 2)
    assert rotating.secret.primary.request_id == context.request_id
    assert kept.request_ids == {context.request_id}


async def test_a_scheduled_rotation_stands_under_its_own_id(rotating: RotationLab) -> None:
    rotating.control.clock.advance(EVERY_S)
    kept = _Kept()
    duty = rotating.duty(kept.guarded)
    for _ in range(40):
        await duty.round()
        await rotating.apply()
        rotating.control.clock.advance(5)
    assert rotating.secret.primary.number == 2
    assert rotating.secret.primary.request_id == rotating.rotation.id
    assert is_id(rotating.rotation.id)
    assert kept.request_ids == {rotating.rotation.id}


async def test_a_rotation_that_an_earlier_release_began_goes_on(rotating: RotationLab) -> None:
    await rotating.start()
    await rotating.control.write(msgspec.structs.replace(rotating.rotation, request_id=""))
    await rotating.carry_out()
    assert rotating.secret.primary.number == 2
    assert rotating.secret.primary.request_id == ""


def _without_ids(record: Record) -> bytes:
    """Return a record as release 0.1.0 writes it."""
    tree: dict[str, Any] = msgspec.msgpack.decode(encode(record))
    tree.pop("request_id", None)
    for version in tree.get("versions", ()):
        version.pop("request_id")
    return msgspec.msgpack.encode(tree)


async def test_records_of_0_1_0_are_read_and_grow_by_an_id_each(rotating: RotationLab) -> None:
    """What is stored of each grows by one or two size classes."""
    await rotating.start()
    control = rotating.control
    await control.services.create(control.context(), drafted("red", "db", uid=1_001))
    records: list[VersionedRecord | ServiceRecord | RotationRecord] = [
        secret(control), service(control, "red"), rotating.rotation,
    ]  # fmt: skip
    for record in records:
        old = _without_ids(record)
        read = decode(record.kind, old)
        assert isinstance(read, SecretRecord | ServiceRecord | RotationRecord)
        assert (read.versions[0] if isinstance(read, SecretRecord) else read).request_id == ""
        assert decode(record.kind, encode(record)) == record
        assert len(encode(record)) - len(old) == GROWTH
        assert padded_size(len(encode(record))) - padded_size(len(old)) <= 64
