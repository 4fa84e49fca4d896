"""Services as operators handle them."""

import asyncio

import pytest

from cluster.control.service_draft import OnChangeDraft, ReferenceDraft, ServiceDraft
from cluster.protocol.errors import (
    AlreadyExists,
    Conflict,
    InvalidName,
    InvalidReference,
    InvalidRequest,
    PermissionDenied,
    ServiceNotFound,
    StaleVersion,
)
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import LeaseLoss, TargetState
from tests.unit.control.lab import AUDITOR, DEPLOYER, ControlLab, drafted


async def test_created_service_shows_its_spec(lab: ControlLab) -> None:
    await lab.secret("db")
    reference = ReferenceDraft(
        "db", target="password", mode="0400", uid=0, on_lease_loss=LeaseLoss.WIPE
    )
    answer = await lab.services.create(
        lab.context(),
        drafted("web", references=(reference,), constraints=("node.labels.zone == a",)),
    )
    assert answer.status == 201
    assert answer.body["spec_number"] == 1
    spec = lab.services.inspect(AUDITOR, "web")["spec"]
    assert isinstance(spec, dict)
    assert spec["constraints"] == ["node.labels.zone==a"]
    assert spec["references"] == [
        {
            "source": "db",
            "target": "password",
            "uid": 0,
            "gid": None,
            "mode": "0400",
            "version": "primary",
            "on_lease_loss": "wipe",
            "lease_s": None,
            "previous": False,
            "config": False,
        }
    ]


async def test_many_services_of_one_secret_are_created_at_once(
    lab: ControlLab, second: ControlLab
) -> None:
    """Each rewrites the secret, so that all but one of them conflict, on either manager."""
    await lab.secret("db")
    await second.store.barrier()

    async def create(number: int) -> None:
        # The first manager has them all at once, the other one after the other, some time later.
        via = lab if number < 32 else second
        for _ in range(max(number - 31, 0)):
            await via.store.barrier()
        await via.services.create(via.context(), drafted(f"s{number}", "db", uid=2000 + number))

    await asyncio.gather(*map(create, range(48)))
    await lab.store.barrier()
    assert len(lab.view.services) == 48


@pytest.mark.parametrize(
    "reference",
    [
        ReferenceDraft("absent"),
        ReferenceDraft("db", target="../x"),
        ReferenceDraft("db", target="a/b"),
        ReferenceDraft("db", target="..data"),
        ReferenceDraft("db", mode="4440"),
        ReferenceDraft("db", mode=0o4440),
        ReferenceDraft("db", mode="0442"),
        ReferenceDraft("db", mode="rw"),
        ReferenceDraft("db", mode=-1),
        ReferenceDraft("db", version=2),
        ReferenceDraft("db", version=0),
        ReferenceDraft("db", version="newest"),
        ReferenceDraft("db", uid=-1),
        ReferenceDraft("db", gid=2**31),
    ],
)
@pytest.mark.threat("T-15")
async def test_unusable_references_are_refused(lab: ControlLab, reference: ReferenceDraft) -> None:
    await lab.secret("db")
    with pytest.raises(InvalidReference):
        await lab.services.create(lab.context(), drafted("web", references=(reference,)))
    await lab.services.create(lab.context(), drafted("web", "db"))


@pytest.mark.parametrize(
    "fields",
    [
        {"uid": 0},
        {"replicas": -1},
        {"constraints": ("node.zone==a",)},
        {"constraints": ("node.labels.zone=a",)},
        {"labels": {"a b": "c"}},
        {"on_change": OnChangeDraft()},
        {"on_change": OnChangeDraft(signal="HUP", command=("/bin/true",))},
        {"on_change": OnChangeDraft(signal="KILL")},
        {"on_change": OnChangeDraft(command=("true",))},
        {"on_change": OnChangeDraft(signal="HUP", timeout_s=0)},
        {"on_change": OnChangeDraft(signal="HUP", timeout_s=float("nan"))},
    ],
)
async def test_unusable_specs_are_refused(lab: ControlLab, fields: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        await lab.services.create(lab.context(), drafted("web", **fields))


@pytest.mark.parametrize("name", ["Web", "web.x", "-web", ""])
async def test_service_names_are_dns_labels(lab: ControlLab, name: str) -> None:
    with pytest.raises(InvalidName):
        await lab.services.create(lab.context(), drafted(name))


async def test_two_references_with_one_target_are_refused(lab: ControlLab) -> None:
    await lab.secret("a")
    await lab.secret("b")
    references = (ReferenceDraft("a", target="x"), ReferenceDraft("b", target="x"))
    with pytest.raises(InvalidReference, match="share the target"):
        await lab.services.create(lab.context(), drafted("web", references=references))


async def test_names_are_given_once(lab: ControlLab) -> None:
    await lab.service("web")
    with pytest.raises(AlreadyExists):
        await lab.service("web")


async def test_retired_version_cannot_be_referred_to(lab: ControlLab) -> None:
    await lab.secret("db")
    for value in (b"2", b"3"):
        await lab.secrets.rotate(lab.context(), "db", SecretBytes(value))
    await lab.settle(lab.duty())
    with pytest.raises(InvalidReference, match="no version 1"):
        await lab.services.create(
            lab.context(), drafted("web", references=(ReferenceDraft("db", version=1),))
        )


async def test_update_keeps_the_previous_spec_and_rollback_swaps(lab: ControlLab) -> None:
    await lab.secret("db")
    await lab.service("web", "db", replicas=1)
    await lab.services.update(lab.context(), "web", drafted("web", replicas=2), 1)
    with pytest.raises(StaleVersion):
        await lab.services.update(lab.context(), "web", drafted("web"), 1)
    answer = await lab.services.rollback(lab.context(), "web")
    assert answer.body["spec_number"] == 3
    service = lab.view.service_by_name("web")
    assert service is not None
    assert [reference.source for reference in service.record.spec.references] == ["db"]
    assert service.record.previous_spec is not None
    assert service.record.previous_spec.replicas == 2


async def test_service_without_a_previous_spec_cannot_roll_back(lab: ControlLab) -> None:
    await lab.service("web")
    with pytest.raises(Conflict, match="no previous spec"):
        await lab.services.rollback(lab.context(), "web")


async def test_version_a_rollback_needs_is_kept_by_rotations(lab: ControlLab) -> None:
    await lab.secret("db")
    pinned = drafted("web", references=(ReferenceDraft("db", version=1),))
    await lab.services.create(lab.context(), pinned)
    await lab.services.update(lab.context(), "web", drafted("web", "db"))
    for value in (b"2", b"3", b"4"):
        await lab.secrets.rotate(lab.context(), "db", SecretBytes(value))
    await lab.services.rollback(lab.context(), "web")


async def test_rollback_after_a_tampered_removal_is_refused(lab: ControlLab) -> None:
    """The rules keep this from happening; should it happen, nothing is invented."""
    await lab.secret("db")
    await lab.service("web", "db")
    await lab.services.update(lab.context(), "web", drafted("web"))
    from cluster.store.steps import Remove, Write

    stored = lab.view.secret_by_name("db")
    assert stored is not None
    await lab.store.commit(Write((Remove(stored),)))
    with pytest.raises(InvalidReference, match="'db'"):
        await lab.services.rollback(lab.context(), "web")


async def test_removed_service_leaves_nothing(lab: ControlLab) -> None:
    await lab.join("n1")
    await lab.service("web")
    await lab.settle(lab.duty())
    assert lab.placed("web") == {"n1"}
    await lab.services.remove(lab.context(), "web")
    assert len(lab.view.tasks) == 0
    with pytest.raises(ServiceNotFound):
        lab.services.inspect(AUDITOR, "web")
    await lab.service("web")


async def test_tasks_show_desired_and_mounted_versions(lab: ControlLab) -> None:
    await lab.secret("db")
    node_id = await lab.join("n1")
    await lab.service("web", "db")
    await lab.settle(lab.duty())
    (before,) = lab.services.tasks(AUDITOR, "web")
    assert before["node"] == "n1"
    assert before["desired_state"] == "running"
    assert before["references"] == [
        {
            "source": "db",
            "config": False,
            "target": "db",
            "version_desired": 1,
            "version_mounted": None,
            "since": None,
        }
    ]
    await lab.mounted("web", node_id, {"db": 1})
    await lab.secrets.rotate(lab.context(), "db", SecretBytes(b"2"))
    (after,) = lab.services.tasks(AUDITOR, "web")
    references = after["references"]
    assert isinstance(references, list)
    (reference,) = references
    assert (reference["version_desired"], reference["version_mounted"]) == (2, 1)


async def test_service_without_a_node_says_what_it_waits_for(lab: ControlLab) -> None:
    await lab.service("web")
    assert "1 of 1 replicas wait" in str(lab.services.inspect(AUDITOR, "web")["waiting"])
    await lab.join("n1")
    await lab.settle(lab.duty())
    assert lab.services.inspect(AUDITOR, "web")["waiting"] == ""


async def test_deployer_cannot_borrow_secrets_outside_his_labels(lab: ControlLab) -> None:
    await lab.secret("red-db", team="red")
    await lab.secret("blue-db", team="blue")
    mine = {"team": "red"}
    messages = []
    for source in ("blue-db", "absent-db"):
        with pytest.raises(InvalidReference) as refused:
            await lab.services.create(lab.context(DEPLOYER), drafted("web", source, labels=mine))
        messages.append(refused.value.message.replace(source, "X"))
    assert len(set(messages)) == 1
    await lab.services.create(lab.context(DEPLOYER), drafted("web", "red-db", labels=mine))


async def test_deployer_cannot_touch_or_take_over_other_services(lab: ControlLab) -> None:
    await lab.secret("blue-db", team="blue")
    await lab.service("blue", "blue-db", labels={"team": "blue"})
    await lab.service("mixed", "blue-db", labels={"team": "red"})
    take = drafted("blue", labels={"team": "red"})
    with pytest.raises(PermissionDenied):
        await lab.services.update(lab.context(DEPLOYER), "blue", take)
    with pytest.raises(PermissionDenied):
        await lab.services.remove(lab.context(DEPLOYER), "blue")
    with pytest.raises(PermissionDenied):
        await lab.services.update(
            lab.context(DEPLOYER), "mixed", drafted("mixed", labels={"team": "red"})
        )
    assert [service["name"] for service in lab.services.list(DEPLOYER).entries] == ["mixed"]


async def test_rollout_of_a_new_service_waits_for_its_replicas(lab: ControlLab) -> None:
    await lab.secret("db")
    first = await lab.join("n1")
    answer = await lab.services.create(lab.context(), drafted("web", "db", replicas=2))
    duty = lab.duty()
    await lab.settle(duty)
    await lab.mounted("web", first, {"db": 1})
    await lab.settle(duty)
    rollout = lab.view.rollouts.get(str(answer.body["rollout"]))
    assert rollout is not None
    assert [target.state for target in rollout.record.targets] == [TargetState.DONE]
    assert rollout.record.finished_at is None
    second = await lab.join("n2")
    await lab.settle(duty)
    await lab.mounted("web", second, {"db": 1}, error="no tmpfs")
    await lab.settle(duty)
    rollout = lab.view.rollouts.get(rollout.record.id)
    assert rollout is not None
    assert {target.state for target in rollout.record.targets} == {
        TargetState.DONE,
        TargetState.FAILED,
    }
    await lab.mounted("web", second, {"db": 1})
    await lab.settle(duty)
    rollout = lab.view.rollouts.get(rollout.record.id)
    assert rollout is not None
    assert rollout.record.finished_at is not None


@pytest.mark.threat("T-17")
def test_drafts_refuse_unknown_fields_without_echoing_values() -> None:
    import msgspec

    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.json.decode(b'{"name": "web", "value": "canary"}', type=ServiceDraft)
    assert "canary" not in str(refused.value)
