"""Which requests a node's log is told of: those that made what is new to it, when it gets it."""

import msgspec

from cluster.control.service_draft import ReferenceDraft
from cluster.dispatcher.assignments import assignments_of, difference
from cluster.dispatcher.manifests import manifest_of
from cluster.dispatcher.sessions import ViewRecords
from cluster.protocol import wire
from cluster.protocol.ids import NodeId, is_id
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import ServiceRecord, VersionedRecord
from tests.unit.control.lab import drafted
from tests.unit.control.rollout_lab import Fleet
from tests.unit.dispatcher.lab import DispatchLab

REVISION = wire.RevisionPair(1, "first", 7)


class _Old:
    """The two manifests as release 0.1.0 knows them."""

    class Snapshot(msgspec.Struct, frozen=True, tag="snapshot"):
        revision: wire.RevisionPair
        services: tuple[wire.ServiceAssignment, ...]

    class Delta(msgspec.Struct, frozen=True, tag="delta"):
        base: wire.RevisionPair
        revision: wire.RevisionPair
        changed: tuple[wire.ServiceAssignment, ...]
        removed: tuple[str, ...]


def secret(lab: DispatchLab, name: str = "db") -> VersionedRecord:
    stored = lab.view.secret_by_name(name)
    assert stored is not None
    return stored.record


def service(lab: DispatchLab, name: str) -> ServiceRecord:
    stored = lab.view.service_by_name(name)
    assert stored is not None
    return stored.record


async def rotated(lab: DispatchLab, name: str = "db") -> str:
    """Rotate a secret and return the request's id."""
    context = lab.context()
    await lab.secrets.rotate(context, name, SecretBytes(b"next"))
    return context.request_id


async def test_a_first_manifest_tells_of_the_service_and_of_its_secrets(lab: DispatchLab) -> None:
    node_id = await lab.running("db", "tls")
    made = {one.request_id for name in ("db", "tls") for one in secret(lab, name).versions}
    made.add(service(lab, "red").request_id)
    assert len(made) == 3
    assert all(map(is_id, made))
    async with lab.talk(node_id) as talk:
        snapshot = await talk.link.next(wire.Snapshot)
    assert set(snapshot.request_ids) == made


async def test_a_change_tells_of_its_own_request_alone(lab: DispatchLab) -> None:
    node_id = await lab.running("db", "tls")
    async with lab.talk(node_id) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))
        rotation = await rotated(lab)
        delta = await talk.link.next(wire.Delta)
        assert delta.request_ids == (rotation,)
        await talk.carry_out(delta)
        update = lab.context()
        here = ("node.name==node-of-red",)
        draft = drafted("red", "db", "tls", uid=1_234, constraints=here)
        await lab.services.update(update, "red", draft)
        delta = await talk.link.next(wire.Delta)
        assert delta.request_ids == (update.request_id,)
        await talk.carry_out(delta)
        back = lab.context()
        await lab.versions.rollback(back, "db")
        assert (await talk.link.next(wire.Delta)).request_ids == (back.request_id,)


async def test_a_new_session_tells_of_what_happened_meanwhile_and_of_nothing_else(
    lab: DispatchLab,
) -> None:
    node_id = await lab.running("db", "tls")
    async with lab.talk(node_id) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))
    async with lab.talk(node_id) as talk:
        assert (await talk.link.next(wire.Snapshot)).request_ids == ()
    rotation = await rotated(lab)
    async with lab.talk(node_id) as talk:
        assert (await talk.link.next(wire.Snapshot)).request_ids == (rotation,)


async def test_a_version_that_comes_back_from_the_file_before_is_told_of(lab: DispatchLab) -> None:
    """The node has it under the other name already; a rotation does not name who made that one."""
    node_id = await lab.running("db")
    both = (ReferenceDraft("db", previous=True),)
    here = ("node.name==node-of-red",)
    await lab.services.update(
        lab.context(), "red", drafted("red", references=both, constraints=here)
    )
    async with lab.talk(node_id) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))
        rotation = await rotated(lab)
        delta = await talk.link.next(wire.Delta)
        assert delta.request_ids == (rotation,)
        assert sorted(file.version for file in delta.changed[0].files) == [1, 2]
        await talk.carry_out(delta)
        back = lab.context()
        await lab.versions.rollback(back, "db")
        assert (await talk.link.next(wire.Delta)).request_ids == (back.request_id,)


async def test_a_spec_that_failed_is_told_of_by_the_next_session(lab: DispatchLab) -> None:
    node_id = await lab.running("db")
    update = lab.context()
    here = ("node.name==node-of-red",)
    draft = drafted("red", "db", uid=1_234, constraints=here)
    await lab.services.update(update, "red", draft)
    await lab.mounted("red", node_id, {"db": 1}, error="no room")
    assert await told(lab, node_id) == (update.request_id,)
    await lab.mounted("red", node_id, {"db": 1})
    assert await told(lab, node_id) == ()


async def test_a_held_task_learns_of_the_request_when_it_is_released(lab: DispatchLab) -> None:
    fleet = Fleet(lab)
    await fleet.set_up()
    early = fleet.nodes[0]
    async with lab.talk(early) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))
        rollout = await fleet.rotate()
        rotation = secret(lab).primary.request_id
        canary = fleet.changed()
        waiting = next(node for node in fleet.nodes if node not in {canary, early})
        assert await told(lab, waiting) == ()
        assert await told(lab, canary) == (rotation,)
        while fleet.rollout(rollout).finished_at is None:
            await fleet.report()
        assert (await talk.link.next(wire.Delta)).request_ids == (rotation,)


async def test_a_held_spec_is_told_of_when_it_is_released(lab: DispatchLab) -> None:
    fleet = Fleet(lab)
    await fleet.set_up()
    update = lab.context()
    await lab.secret("further", b"further")
    await lab.services.update(update, "app", fleet.draft("db", "further"))
    await fleet.settle()
    seen = sorted([await told(lab, node) for node in fleet.nodes])
    assert seen[:2] == [(), ()]
    assert set(seen[2]) == {update.request_id, secret(lab, "further").primary.request_id}


async def test_what_a_rollout_takes_back_by_itself_names_no_request(lab: DispatchLab) -> None:
    fleet = Fleet(lab)
    await fleet.set_up()
    await fleet.rotate()
    canary = fleet.changed()
    async with lab.talk(canary) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))
        await lab.mounted("app", canary, {"db": 2}, error="refused")
        await fleet.settle()
        assert (await talk.link.next(wire.Delta)).request_ids == ()


async def test_a_status_of_a_task_before_does_not_count(lab: DispatchLab) -> None:
    """The sweep forgets it later than the node may be given the service again."""
    node_id = await lab.running("db")
    async with lab.talk(node_id) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))
    (task,) = lab.view.tasks_of_node(node_id)
    lab.clock.advance(5.0)
    await lab.write(msgspec.structs.replace(task.record, created_at=lab.clock.now().timestamp()))
    assert set(await told(lab, node_id)) == {
        secret(lab).primary.request_id,
        service(lab, "red").request_id,
    }


async def test_a_manifest_takes_a_bounded_number(lab: DispatchLab) -> None:
    node_id = await lab.join("n1")
    names = [f"s{number}" for number in range(135)]
    for name in names:
        await lab.secret(name, b"v")
    for number in range(3):
        await lab.service(f"red{number}", *names[number::3], uid=1_000 + number)
    await lab.settle(lab.duty())
    desired = assignments_of(ViewRecords(lab.view), node_id)
    plan = difference({}, desired)
    manifest = manifest_of(lab.view, node_id, (None, REVISION), desired, plan, {})
    assert len(manifest.request_ids) == len(set(manifest.request_ids)) == wire.REQUEST_IDS


def test_release_0_1_0_and_this_one_read_each_others_manifests() -> None:
    told_of = ("a" * 26,)
    snapshot = wire.Snapshot(REVISION, (), told_of)
    delta = wire.Delta(REVISION, REVISION, (), ("gone",), told_of)
    old = msgspec.msgpack.decode(wire.encode(snapshot), type=_Old.Snapshot | _Old.Delta)
    assert old == _Old.Snapshot(REVISION, ())
    old = msgspec.msgpack.decode(wire.encode(delta), type=_Old.Snapshot | _Old.Delta)
    assert old == _Old.Delta(REVISION, REVISION, (), ("gone",))
    for before in (_Old.Snapshot(REVISION, ()), _Old.Delta(REVISION, REVISION, (), ())):
        read = wire.decode_from_manager(msgspec.msgpack.encode(before))
        assert isinstance(read, wire.Snapshot | wire.Delta)
        assert read.request_ids == ()
        assert wire.encode(read) == msgspec.msgpack.encode(before), "nothing new is said for it"


async def told(lab: DispatchLab, node_id: NodeId) -> tuple[str, ...]:
    """Return what a new session of a node is told of; it takes nothing in."""
    async with lab.talk(node_id) as talk:
        return (await talk.link.next(wire.Snapshot)).request_ids
