"""Configs on their way to nodes: the rules of secrets, by the same code."""

import pytest

from cluster.control.delivered import held_versions
from cluster.control.receipt_ages import KEPT_S
from cluster.control.service_draft import ReferenceDraft
from cluster.protocol import wire
from cluster.protocol.errors import PermissionDenied, SecretNotFound
from cluster.protocol.ids import NodeId
from cluster.protocol.secret_bytes import SecretBytes
from tests.unit.control.lab import ADMIN, drafted
from tests.unit.control.test_exposure import deliver, rows
from tests.unit.dispatcher.lab import DispatchLab
from tests.unit.dispatcher.test_issue import issue

WHERE = {"constraints": ("node.name==node-of-red",)}


async def running(lab: DispatchLab, *references: ReferenceDraft) -> NodeId:
    """Return a node with service red, which refers to secret `app` and to these; config `app` has
    the secret's name."""
    node_id = await lab.running("app")
    await lab.configs.create(lab.context(), "app", {}, SecretBytes(b"plain"))
    secret = ReferenceDraft("app", target="z-secret")
    draft = drafted("red", references=(secret, *references), **WHERE)
    await lab.services.update(lab.context(), "red", draft)
    await lab.settle(lab.duty())
    return node_id


APP = ReferenceDraft("app", target="a-config", config=True, uid=7, mode="0444")


async def test_config_comes_among_the_files_of_its_service(lab: DispatchLab) -> None:
    node_id = await running(lab, APP)
    async with lab.talk(node_id) as talk:
        snapshot = await talk.link.next(wire.Snapshot)
        (service,) = snapshot.services
        told = [(one.target, one.name, one.config, one.uid, one.mode) for one in service.files]
        assert told == [("a-config", "app", True, 7, 0o444), ("z-secret", "app", False, None, 288)]
        assert set(talk.link.values()) == {b"plain", b"app"}
        await talk.carry_out(snapshot)
    (task,) = lab.services.tasks(ADMIN, "red")
    assert [one["version_mounted"] for one in task["references"]] == [1, 1]  # type: ignore[index,union-attr,call-overload]  # JSON


@pytest.mark.threat("T-53")
async def test_node_without_a_task_that_refers_to_it_gets_no_config(lab: DispatchLab) -> None:
    """Neither before the reference nor after it, by push and on request; with it, both."""
    node_id = await running(lab)
    stranger = await lab.join("stranger")
    with pytest.raises(PermissionDenied):
        await issue(lab, node_id, "red", "a-config")
    async with lab.talk(node_id) as talk, lab.talk(stranger) as other:
        await talk.carry_out(await talk.link.next(wire.Snapshot))
        await other.carry_out(await other.link.next(wire.Snapshot))
        draft = drafted("red", references=(APP,), **WHERE)
        await lab.services.update(lab.context(), "red", draft)
        await talk.carry_out(await talk.link.next(wire.Delta))
        assert b"plain" in talk.link.values()
        await other.heard()
        assert other.link.values() == []
    assert await issue(lab, node_id, "red", "a-config") == (1, b"plain")
    with pytest.raises(PermissionDenied):
        await issue(lab, stranger, "red", "a-config")
    await lab.services.update(lab.context(), "red", drafted("red", **WHERE))
    with pytest.raises(PermissionDenied):
        await issue(lab, node_id, "red", "a-config")


async def test_where_both_have_a_name_it_is_the_secrets(lab: DispatchLab) -> None:
    node_id = await running(lab, APP)
    assert await issue(lab, node_id, "red", "app") == (1, b"app")
    assert await issue(lab, node_id, "red", "a-config") == (1, b"plain")


@pytest.mark.threat("T-53")
async def test_exposure_of_a_node_tells_configs_from_secrets(lab: DispatchLab) -> None:
    node_id = await running(lab, APP)
    await deliver(lab, node_id)
    found = rows(lab.exposure.of_node(ADMIN, "node-of-red"))
    told = [(one["secret"], one["config"], one["live"]) for one in found]
    assert sorted(told) == [("app", False, True), ("app", True, True)]
    (secret,) = rows(lab.exposure.where(ADMIN, "app"))
    assert secret["config"] is False
    # A config needs no rotation: an eviction marks, and rotates, secrets alone.
    answer = await lab.evictions.evict(lab.context(), "node-of-red", rotate=True)
    assert [row["secret"] for row in answer.body["secrets"]] == ["app"]  # type: ignore[index,union-attr,call-overload]  # JSON


async def test_receipt_of_a_config_outlives_it_and_is_no_trace_of_a_secret(
    lab: DispatchLab,
) -> None:
    node_id = await lab.running("db")
    await lab.configs.create(lab.context(), "plain", {}, SecretBytes(b"plain"))
    draft = drafted("red", references=(ReferenceDraft("plain", config=True),), **WHERE)
    await lab.services.update(lab.context(), "red", draft)
    await deliver(lab, node_id)
    (config_id,) = held_versions(lab.view, node_id)
    await lab.settle(lab.duty(), rounds=1)
    (held,) = lab.view.receipts_of_secret(config_id)
    assert (held.record.config, held.record.orphaned_at) == (True, None)
    await lab.services.remove(lab.context(), "red")
    await lab.configs.remove(lab.context(), "plain")
    for name in ("plain", config_id):
        with pytest.raises(SecretNotFound):
            lab.exposure.where(ADMIN, name)
    (row,) = rows(lab.exposure.of_node(ADMIN, "node-of-red"))
    assert (row["version_state"], row["live"], row["config"]) == ("removed", False, True)
    for _ in range(2):
        await lab.settle(lab.duty(), rounds=1)
        lab.clock.advance(KEPT_S)
    assert lab.view.receipts_of_secret(config_id) == ()
