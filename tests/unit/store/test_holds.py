"""What open rollouts keep from tasks, and whom a change of one concerns."""

import msgspec

from cluster.protocol.ids import NodeId, SecretId, ServiceId, VersionNumber
from cluster.store.holds import Holds, nodes_moved
from cluster.store.records import (
    HeldSpec,
    RolloutKind,
    RolloutRecord,
    RolloutState,
    RolloutTarget,
    SecretReference,
    ServiceSpec,
    TaskRecord,
    TaskState,
    UpdatePolicy,
    task_id,
)

SECRET, SERVICE = SecretId("db"), ServiceId("web")
ONE, TWO, NEW = NodeId("one"), NodeId("two"), NodeId("new")


def task(node: NodeId) -> TaskRecord:
    return TaskRecord(
        id=task_id(SERVICE, node),
        service_id=SERVICE,
        node_id=node,
        state=TaskState.RUNNING,
        created_at=0.0,
    )


def rotation(rollout_id: str = "r1", **fields: object) -> RolloutRecord:
    """Return a rotation from version 1 that is released to `one` and not to `two`."""
    record = RolloutRecord(
        id=rollout_id,
        what=RolloutKind.ROTATE,
        name="db",
        secret_id=SECRET,
        version=VersionNumber(2),
        targets=(RolloutTarget(SERVICE, ONE, released_at=5.0), RolloutTarget(SERVICE, TWO)),
        started_at=0.0,
        started_by="test",
        policy=UpdatePolicy(canary=1),
        before_version=VersionNumber(1),
    )
    return msgspec.structs.replace(record, **fields)


def held(*rollouts: RolloutRecord) -> list[int | None]:
    """Return what `one`, `two` and a task placed since are held at."""
    holds = Holds(rollouts)
    return [holds.version(task(node), SECRET) for node in (ONE, TWO, NEW)]


def test_unreleased_tasks_and_newcomers_keep_the_version_before() -> None:
    assert held(rotation()) == [None, 1, 1]
    assert held(rotation(canary_passed=True)) == [None, 1, None]
    assert held(rotation(canary_passed=True, state=RolloutState.PAUSED)) == [None, 1, 1]
    assert Holds([rotation()]).version(task(TWO), SecretId("other")) is None


def test_a_target_may_keep_a_version_of_its_own() -> None:
    targets = (RolloutTarget(SERVICE, ONE, before=3), RolloutTarget(SERVICE, TWO))
    assert held(rotation(targets=targets)) == [3, 1, 1]


def test_nothing_is_held_by_what_is_over_goes_back_or_has_no_policy() -> None:
    assert held(rotation(finished_at=9.0, state=RolloutState.FINISHED)) == [None] * 3
    assert held(rotation(state=RolloutState.ROLLING_BACK)) == [None] * 3
    assert held(rotation(policy=None)) == [None] * 3


def test_the_end_of_an_older_rollout_does_not_end_the_newer_one() -> None:
    """Both change in one revision, in either order."""
    older, newer = rotation("older"), rotation("newer", before_version=VersionNumber(4))
    over = msgspec.structs.replace(older, finished_at=9.0, state=RolloutState.SUPERSEDED)
    for order in ((over, newer), (newer, over)):
        holds = Holds([older])
        for record in order:
            holds.put(record)
        assert holds.version(task(TWO), SECRET) == 4
        holds.drop(older)
        assert holds.version(task(TWO), SECRET) == 4
        holds.drop(newer)
        assert holds.version(task(TWO), SECRET) is None


def test_a_held_spec_counts_with_its_uid_and_its_secrets() -> None:
    reference = SecretReference(secret_id=SECRET, source="db", target="db")
    update = rotation(
        what=RolloutKind.SERVICE,
        secret_id=None,
        service_id=SERVICE,
        before_version=None,
        before_spec_number=7,
        held_specs=(HeldSpec(7, ServiceSpec(references=(reference,), uid=1234)),),
    )
    holds = Holds([update])
    found = holds.spec(task(TWO))
    assert found is not None
    assert (found.number, holds.spec(task(ONE))) == (7, None)
    assert holds.held_uids() == {SERVICE: {1234}}
    assert holds.services_holding(SECRET) == {SERVICE}
    assert holds.services_holding(SecretId("other")) == frozenset()


def test_a_change_concerns_the_nodes_it_releases() -> None:
    before = rotation()
    released = tuple(msgspec.structs.replace(t, released_at=6.0) for t in before.targets)
    assert nodes_moved(before, rotation(targets=released)) == (frozenset({TWO}), False)
    assert nodes_moved(before, rotation(canary_passed=True)) == (frozenset(), True)
    assert nodes_moved(before, rotation(started_by="other")) == (frozenset(), False)
    assert nodes_moved(None, before) == (frozenset({TWO}), True)
    over = rotation(finished_at=9.0, state=RolloutState.FINISHED)
    assert nodes_moved(before, over) == (frozenset({TWO}), True)
