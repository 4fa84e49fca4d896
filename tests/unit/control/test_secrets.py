"""Secrets as operators handle them."""

import asyncio

import pytest

from cluster.control.secrets import MAX_VALUE_BYTES
from cluster.protocol.errors import (
    AlreadyExists,
    InvalidName,
    InvalidRequest,
    PayloadTooLarge,
    PermissionDenied,
    RequestIdReused,
    SecretInUse,
    SecretNotFound,
)
from cluster.protocol.ids import SecretId, VersionNumber
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import ReceiptRecord, TargetState, receipt_id
from cluster.store.steps import Create, Remove, Write
from tests.unit.control.lab import AUDITOR, DEPLOYER, ControlLab, drafted

CANARY = b"canary-5d1c0a"


def _secret_id(lab: ControlLab, name: str) -> SecretId:
    stored = lab.view.secret_by_name(name)
    assert stored is not None
    return SecretId(stored.record.id)


def _value(lab: ControlLab, name: str, version: int) -> bytes:
    return lab.store.open_value(_secret_id(lab, name), VersionNumber(version)).reveal()


async def test_created_secret_can_be_issued(lab: ControlLab) -> None:
    answer = await lab.secrets.create(
        lab.context(), "db", {"team": "red"}, SecretBytes(b"\x00binary\xff")
    )
    assert answer.status == 201
    assert (answer.body["name"], answer.body["version"]) == ("db", 1)
    assert answer.body["revision"] == str(lab.store.revision(lab.view.revision))
    assert _value(lab, "db", 1) == b"\x00binary\xff"


async def test_no_answer_and_no_listing_carries_a_value(lab: ControlLab) -> None:
    await lab.secret("db", CANARY)
    answer = await lab.secrets.rotate(lab.context(), "db", SecretBytes(CANARY + b"2"))
    shown = [
        answer,
        answer.body,
        lab.secrets.list(AUDITOR).entries,
        lab.secrets.inspect(AUDITOR, "db"),
    ]
    assert CANARY.decode() not in repr(shown)
    assert all(CANARY not in r.record.answer for r in lab.view.requests.values())


async def test_sizes_out_of_range_are_refused(lab: ControlLab) -> None:
    with pytest.raises(PayloadTooLarge):
        await lab.secret("db", bytes(MAX_VALUE_BYTES + 1))
    with pytest.raises(InvalidRequest, match="empty"):
        await lab.secret("db", b"")


async def test_largest_value_is_stored(lab: ControlLab) -> None:
    await lab.secret("db", bytes(MAX_VALUE_BYTES))
    assert len(_value(lab, "db", 1)) == MAX_VALUE_BYTES


async def test_names_that_differ_in_case_are_one(lab: ControlLab) -> None:
    await lab.secret("Db")
    with pytest.raises(AlreadyExists):
        await lab.secret("dB")
    with pytest.raises(SecretNotFound):
        lab.secrets.inspect(AUDITOR, "db")


async def test_two_managers_cannot_give_one_name_twice(lab: ControlLab, second: ControlLab) -> None:
    results = await asyncio.gather(
        lab.secret("db", b"1"), second.secret("DB", b"2"), return_exceptions=True
    )
    assert [type(result) for result in results if result] == [AlreadyExists]
    assert len(lab.secrets.list(AUDITOR).entries) == 1


@pytest.mark.parametrize("name", ["", ".x", "a/b", "a" * 65, "../x"])
async def test_bad_names_are_refused(lab: ControlLab, name: str) -> None:
    with pytest.raises(InvalidName):
        await lab.secret(name)


async def test_resent_request_learns_the_first_answer(lab: ControlLab) -> None:
    context = lab.context()
    first = await lab.secrets.create(context, "db", {}, SecretBytes(b"1"))
    await lab.secret("other")
    again = await lab.secrets.create(context, "db", {}, SecretBytes(b"1"))
    assert again == first
    assert len(lab.secrets.list(AUDITOR).entries) == 2


async def test_request_id_of_another_caller_is_refused(lab: ControlLab) -> None:
    context = lab.context()
    await lab.secrets.create(context, "db", {}, SecretBytes(b"1"))
    with pytest.raises(RequestIdReused):
        await lab.secrets.create(
            lab.context(DEPLOYER, context.request_id), "x", {"team": "red"}, SecretBytes(b"1")
        )


async def test_concurrent_resends_are_carried_out_once(lab: ControlLab, second: ControlLab) -> None:
    await lab.secret("db")
    await second.view.wait_for(lab.view.revision, 5)
    context = lab.context()
    one, two = await asyncio.gather(
        lab.secrets.rotate(context, "db", SecretBytes(b"2")),
        second.secrets.rotate(context, "db", SecretBytes(b"2")),
    )
    assert one == two
    assert one.body["version"] == 2


async def test_rotation_makes_the_new_version_primary_and_leaves_the_old_one_active(
    lab: ControlLab,
) -> None:
    await lab.secret("db", b"1")
    await lab.secrets.rotate(lab.context(), "db", SecretBytes(b"2"))
    shown = lab.secrets.inspect(AUDITOR, "db")
    states = {v["number"]: v["state"] for v in shown["versions"]}  # type: ignore[index,union-attr,call-overload]  # JSON
    assert states == {1: "active", 2: "primary"}
    assert [_value(lab, "db", number) for number in (1, 2)] == [b"1", b"2"]


async def test_pinned_version_survives_rotations(lab: ControlLab) -> None:
    await lab.secret("db", b"1")
    draft = drafted("web", "db")
    pinned = draft.references[0].__class__("db", version=1)
    await lab.services.create(lab.context(), drafted("web", references=(pinned,)))
    for value in (b"2", b"3"):
        await lab.secrets.rotate(lab.context(), "db", SecretBytes(value))
    assert _value(lab, "db", 1) == b"1"


async def test_rotation_follows_the_tasks_to_the_end(lab: ControlLab) -> None:
    await lab.secret("db")
    node_id = await lab.join("n1")
    await lab.service("web", "db")
    duty = lab.duty()
    await lab.settle(duty)
    answer = await lab.secrets.rotate(lab.context(), "db", SecretBytes(b"2"))
    rollout = str(answer.body["rollout"])
    await lab.mounted("web", node_id, {"db": 1})
    await lab.settle(duty)
    stored = lab.view.rollouts.get(rollout)
    assert stored is not None
    assert [target.state for target in stored.record.targets] == [TargetState.RELEASED]
    await lab.mounted("web", node_id, {"db": 2})
    await lab.settle(duty)
    stored = lab.view.rollouts.get(rollout)
    assert stored is not None
    assert [target.state for target in stored.record.targets] == [TargetState.DONE]
    assert stored.record.finished_at is not None


async def test_next_rotation_supersedes_the_one_under_way(lab: ControlLab) -> None:
    await lab.secret("db")
    await lab.join("n1")
    await lab.service("web", "db")
    await lab.settle(lab.duty())
    first = await lab.secrets.rotate(lab.context(), "db", SecretBytes(b"2"))
    second = await lab.secrets.rotate(lab.context(), "db", SecretBytes(b"3"))
    stored = lab.view.rollouts.get(str(first.body["rollout"]))
    assert stored is not None
    assert stored.record.superseded_by == second.body["rollout"]


async def test_secret_in_use_is_not_removed(lab: ControlLab) -> None:
    await lab.secret("db")
    await lab.service("web", "db")
    with pytest.raises(SecretInUse, match="service 'web'"):
        await lab.secrets.remove(lab.context(), "db")


async def test_secret_of_a_previous_spec_is_not_removed(lab: ControlLab) -> None:
    await lab.secret("db")
    await lab.service("web", "db")
    await lab.services.update(lab.context(), "web", drafted("web"))
    with pytest.raises(SecretInUse, match="previous spec of service 'web'"):
        await lab.secrets.remove(lab.context(), "db")
    await lab.services.update(lab.context(), "web", drafted("web"))
    await lab.secrets.remove(lab.context(), "db")
    assert lab.secrets.list(AUDITOR).entries == []
    assert len(lab.view.secret_values) == 0


async def test_secret_of_a_lingering_task_is_not_removed(lab: ControlLab) -> None:
    await lab.secret("db")
    node_id = await lab.join("n1")
    service = await lab.service("web", "db")
    await lab.settle(lab.duty())
    (task,) = lab.view.tasks_of_service(service.record.id)  # type: ignore[arg-type]  # a plain id
    secret_id = _secret_id(lab, "db")
    receipt = ReceiptRecord(
        id=receipt_id(secret_id, VersionNumber(1), node_id, task.record.service_id),
        secret_id=secret_id,
        version=VersionNumber(1),
        node_id=node_id,
        service_id=task.record.service_id,
        issued_at=0.0,
        issued_by="m1",  # type: ignore[arg-type]  # a plain id
    )
    await lab.store.commit(Write((Create(receipt),)))
    name = lab.view.names.get("service/web")
    assert name is not None
    await lab.store.commit(Write((Remove(service), Remove(name))))
    with pytest.raises(SecretInUse, match="a task on node 'n1'"):
        await lab.secrets.remove(lab.context(), "db")
    await lab.settle(lab.duty())
    await lab.secrets.remove(lab.context(), "db")


async def test_removal_and_new_reference_cannot_both_win(
    lab: ControlLab, second: ControlLab
) -> None:
    """Both are decided from views that do not show the other."""
    for number in range(5):
        name = f"db{number}"
        await lab.secret(name)
        await second.view.wait_for(lab.view.revision, 5)
        results = await asyncio.gather(
            lab.secrets.remove(lab.context(), name),
            second.services.create(second.context(), drafted(f"web{number}", name)),
            return_exceptions=True,
        )
        assert sum(isinstance(result, Exception) for result in results) == 1


async def test_deployer_reaches_only_his_labels(lab: ControlLab) -> None:
    await lab.secret("red-db", team="red")
    await lab.secret("blue-db", team="blue")
    assert [secret["name"] for secret in lab.secrets.list(DEPLOYER).entries] == ["red-db"]
    assert lab.secrets.inspect(DEPLOYER, "red-db")["name"] == "red-db"
    denials = []
    for name in ("blue-db", "absent"):
        with pytest.raises(PermissionDenied) as denied:
            lab.secrets.inspect(DEPLOYER, name)
        denials.append(denied.value.message)
    assert len(set(denials)) == 1
    with pytest.raises(PermissionDenied):
        await lab.secrets.create(lab.context(DEPLOYER), "x", {}, SecretBytes(b"1"))
    with pytest.raises(PermissionDenied):
        await lab.secrets.set_labels(lab.context(DEPLOYER), "red-db", {"team": "blue"}, ())
    await lab.secrets.set_labels(lab.context(DEPLOYER), "red-db", {"env": "dev"}, ())


async def test_list_filters_by_label_and_prefix(lab: ControlLab) -> None:
    await lab.secret("a1", env="dev")
    await lab.secret("a2", env="live")
    await lab.secret("b1", env="dev")
    listed = lab.secrets.list(AUDITOR, labels=["env=dev"], prefix="a").entries
    assert [secret["name"] for secret in listed] == ["a1"]
