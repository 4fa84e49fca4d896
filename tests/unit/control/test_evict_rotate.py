"""Evicting a node with what it held: marks, rotations, reports, and doing it again."""

import pytest

from cluster.control.evict_rotate import Evictions, operation_id
from cluster.control.policy import Action, Role
from cluster.control.requests import Answer, RequestContext
from cluster.control.service_draft import ReferenceDraft
from cluster.protocol.errors import NodeNotFound, PermissionDenied, Unavailable
from cluster.protocol.ids import NodeId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.audit_chain import read_chain
from cluster.store.records import (
    OperatorRecord,
    OperatorRole,
    RotationSchedule,
    SecretRecord,
    VersionState,
)
from cluster.store.steps import Replace, Write
from tests.support.stores import StoreLab
from tests.unit.control.lab import AUDITOR, DEPLOYER, drafted, operator
from tests.unit.control.rotation_lab import RotationLab
from tests.unit.control.test_exposure import deliver
from tests.unit.dispatcher.lab import DispatchLab


class FakeRotations:
    """The port to scheduled rotations: makes a new primary once per request id."""

    def __init__(self, lab: DispatchLab) -> None:
        self._lab = lab
        self.asked: list[tuple[str, str]] = []
        self.refuse = False

    async def start(self, context: RequestContext, name: str) -> Answer:
        """Rotate at once, or refuse."""
        self.asked.append((name, context.request_id))
        if self.refuse:
            raise Unavailable("the hook cannot be reached")
        return await self._lab.secrets.rotate(context, name, SecretBytes(b"made"))


@pytest.fixture
async def lab(stores: StoreLab) -> DispatchLab:
    lab = DispatchLab(stores, await stores.open("m1"))
    await lab.initialise()
    return lab


async def holder(lab: DispatchLab, *secrets: str) -> NodeId:
    """Return a node that was issued some secrets."""
    node_id = await lab.running(*secrets)
    await deliver(lab, node_id)
    return node_id


def secret(lab: DispatchLab, name: str) -> SecretRecord:
    stored = lab.view.secret_by_name(name)
    assert stored is not None
    return stored.record


async def schedule(lab: DispatchLab, name: str) -> None:
    """Give a secret a schedule."""
    stored = lab.view.secret_by_name(name)
    assert stored is not None
    fields = {field: getattr(stored.record, field) for field in stored.record.__struct_fields__}
    after = SecretRecord(**{**fields, "schedule": RotationSchedule(60.0, "hex")})
    await lab.store.commit(Write((Replace(stored, after),)))


def outcomes(answer: Answer) -> dict[str, str]:
    report = answer.body["secrets"]
    assert isinstance(report, list)
    return {row["secret"]: row["outcome"] for row in report}


NODE = "node-of-red"


async def test_without_rotate_it_is_an_eviction_and_marks_nothing(lab: DispatchLab) -> None:
    node_id = await holder(lab, "db")
    answer = await lab.evictions.evict(lab.context(), NODE, rotate=False)
    assert (answer.body["state"], answer.body["secrets"]) == ("evicted", [])
    stored = lab.view.nodes.get(node_id)
    assert stored is not None
    assert stored.record.revoked_at is not None
    assert secret(lab, "db").primary.exposed_at is None


@pytest.mark.threat("T-34")
async def test_what_the_node_held_is_marked_and_nothing_else(lab: DispatchLab) -> None:
    await holder(lab, "db", "key")
    await lab.secret("other")
    answer = await lab.evictions.evict(lab.context(), NODE, rotate=True)
    assert outcomes(answer) == {"db": "must be rotated", "key": "must be rotated"}
    assert (answer.body["must_rotate"], answer.body["rotating"]) == (2, 0)
    for name in ("db", "key"):
        assert lab.secrets.inspect(AUDITOR, name)["must_rotate"] == (
            f"must be rotated: node {NODE} was evicted"
        )
        assert secret(lab, name).primary.exposed_by == NODE
    assert lab.secrets.inspect(AUDITOR, "other")["must_rotate"] == ""


async def test_the_mark_stays_until_no_live_version_was_on_the_node(lab: DispatchLab) -> None:
    await holder(lab, "db")
    await lab.evictions.evict(lab.context(), NODE, rotate=True)
    await lab.rotate("db", b"second")
    for _ in range(3):
        await lab.settle(lab.duty())
    assert secret(lab, "db").primary.exposed_at is None
    live = {VersionState.PRIMARY, VersionState.ACTIVE}
    still = [v.number for v in secret(lab, "db").versions if v.state in live and v.exposed_at]
    shown = str(lab.secrets.inspect(AUDITOR, "db")["must_rotate"])
    assert bool(shown) == bool(still)
    assert not shown.startswith("must be rotated")


async def test_a_version_that_a_spec_names_still_needs_a_hand(lab: DispatchLab) -> None:
    node_id = await lab.join(NODE)
    await lab.secret("db", b"first")
    pinned = (ReferenceDraft("db", version=1),)
    await lab.services.create(lab.context(), drafted("red", references=pinned))
    await lab.settle(lab.duty())
    await deliver(lab, node_id)
    await lab.evictions.evict(lab.context(), NODE, rotate=True)
    await lab.rotate("db", b"second")
    answer = await lab.evictions.evict(lab.context(), NODE, rotate=True)
    assert outcomes(answer) == {"db": "must be rotated"}
    assert lab.secrets.inspect(AUDITOR, "db")["must_rotate"] == (
        f"version 1 must be retired: node {NODE} was evicted"
    )


async def test_what_has_a_schedule_rotates_and_the_rest_is_named(lab: DispatchLab) -> None:
    await holder(lab, "db", "key")
    await schedule(lab, "db")
    rotations = FakeRotations(lab)
    evictions = Evictions(lab.requests, lab.nodes, rotations)
    answer = await evictions.evict(lab.context(), NODE, rotate=True)
    assert [name for name, _ in rotations.asked] == ["db"]
    assert outcomes(answer)["key"] == "must be rotated"
    assert outcomes(answer)["db"] in {"rotating", "nothing to do"}
    assert secret(lab, "db").primary.number == 2
    again = await evictions.evict(lab.context(), NODE, rotate=True)
    assert len(rotations.asked) == 1, "its primary was never on the node"
    assert again.body["operation"] == answer.body["operation"]


async def test_a_rotation_that_cannot_start_is_told_and_tried_again(lab: DispatchLab) -> None:
    node_id = await holder(lab, "db")
    await schedule(lab, "db")
    rotations = FakeRotations(lab)
    evictions = Evictions(lab.requests, lab.nodes, rotations)
    rotations.refuse = True
    answer = await evictions.evict(lab.context(), NODE, rotate=True)
    assert outcomes(answer) == {"db": "must be rotated"}
    assert "the hook cannot be reached" in str(answer.body["secrets"])
    rotations.refuse = False
    await evictions.evict(lab.context(), NODE, rotate=True)
    assert len(rotations.asked) == 2
    assert secret(lab, "db").primary.number == 2
    assert answer.body["operation"] == operation_id(node_id)


async def test_a_rotation_by_hook_is_started_once_whoever_asks(lab: DispatchLab) -> None:
    rotating = RotationLab(lab)
    await rotating.initialise()
    await deliver(lab, rotating.node_id)
    evictions = Evictions(lab.requests, lab.nodes, rotating.scheduled)
    context = lab.context()
    first = await evictions.evict(context, "n1", rotate=True)
    assert outcomes(first) == {"db": "rotating"}
    begun = [stored.record.id for stored in lab.view.rotations.values()]
    assert len(begun) == 1
    await evictions.evict(context, "n1", rotate=True)
    await lab.write(OperatorRecord(id="eve", role=OperatorRole.ADMIN, created_at=0.0))
    other = lab.context(operator("eve", Role.ADMIN))
    assert outcomes(await evictions.evict(other, "n1", rotate=True)) == {"db": "rotating"}
    assert [stored.record.id for stored in lab.view.rotations.values()] == begun
    await rotating.carry_out(step_s=1.0)
    assert rotating.secret.primary.number == 2
    assert outcomes(await evictions.evict(lab.context(), "n1", rotate=True))["db"] != "rotating"
    assert len(lab.view.rotations) == 1


async def test_an_interrupted_eviction_is_finished_by_asking_again(lab: DispatchLab) -> None:
    await holder(lab, "db")
    await lab.nodes.remove(lab.context(), NODE)
    for _ in range(2):
        answer = await lab.evictions.evict(lab.context(), NODE, rotate=True)
        assert outcomes(answer) == {"db": "must be rotated"}
    links = [e for e in await audit(lab) if e == Action.SECRET_EXPOSE.value]
    assert len(links) == 1, "the second time there was nothing left to write"


async def test_a_resent_request_evicts_once(lab: DispatchLab) -> None:
    await holder(lab, "db")
    context = lab.context()
    first = await lab.evictions.evict(context, NODE, rotate=True)
    again = await lab.evictions.evict(context, NODE, rotate=True)
    assert first.body == again.body


async def test_many_secrets_are_marked_in_pieces(lab: DispatchLab) -> None:
    names = [f"secret-{number:02}" for number in range(35)]
    await holder(lab, *names)
    answer = await lab.evictions.evict(lab.context(), NODE, rotate=True)
    assert answer.body["must_rotate"] == len(names)
    assert all(secret(lab, name).primary.exposed_by == NODE for name in names)


async def test_what_other_managers_issued_is_marked_too(lab: DispatchLab, stores: StoreLab) -> None:
    node_id = await lab.running("db")
    second = DispatchLab(stores, await stores.open("m2", "b2"))
    await deliver(second, node_id)
    answer = await lab.evictions.evict(lab.context(), NODE, rotate=True)
    assert outcomes(answer) == {"db": "must be rotated"}


async def test_only_admins_evict(lab: DispatchLab) -> None:
    await holder(lab, "db")
    for principal in (AUDITOR, DEPLOYER):
        with pytest.raises(PermissionDenied):
            await lab.evictions.evict(lab.context(principal), NODE, rotate=True)
    assert secret(lab, "db").primary.exposed_at is None
    with pytest.raises(NodeNotFound):
        await lab.evictions.evict(lab.context(), "no-such", rotate=True)


async def audit(lab: DispatchLab) -> list[str]:
    """Return the actions in the audit, of all chains."""
    actions = []
    for stream in lab.view.audit_streams:
        async for link in read_chain(lab.store.engine, lab.store.keyring, stream):
            actions += [entry.action for entry in link.entries]
    return actions
