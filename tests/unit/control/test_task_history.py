"""What `service ps` tells of tasks that ended, and who had them end."""

from datetime import timedelta

import pytest

from cluster.control.node_states import PATIENCE_S
from cluster.control.task_history import KEPT
from cluster.protocol.errors import PermissionDenied
from cluster.store.records import Availability, NodeState
from tests.unit.control.lab import ADMIN, AUDITOR, DEPLOYER, ControlLab, drafted


def ended(lab: ControlLab, service: str = "web") -> list[tuple[object, object, object]]:
    rows = lab.services.ended_tasks(AUDITOR, service)
    return [(row["node"], row["desired_state"], row["reason"]) for row in rows]


def reasons(lab: ControlLab) -> dict[object, object]:
    return {row["node"]: row["reason"] for row in lab.services.tasks(AUDITOR, "web")}


async def moved(lab: ControlLab) -> None:
    """Have the task of web where the next rounds put it, beginning on n1."""
    await lab.join("n1")
    await lab.service("web")
    await lab.settle(lab.duty())
    await lab.join("n2")


async def test_drained_node_is_named_with_who_drained_it(lab: ControlLab) -> None:
    await moved(lab)
    await lab.nodes.update(lab.context(), "n1", add_labels={}, availability=Availability.DRAIN)
    # A later change of labels is not who drained it.
    context = lab.context(DEPLOYER)
    with pytest.raises(PermissionDenied):
        await lab.nodes.update(context, "n1", add_labels={"zone": "a"})
    await lab.nodes.update(lab.context(), "n1", add_labels={"zone": "a"})
    await lab.settle(lab.duty())
    why = f"node n1 is drained by {ADMIN.name}"
    assert ended(lab) == [("n1", "shutdown", why)]
    assert reasons(lab) == {"n2": f"in place of n1: {why}"}


async def test_task_of_a_node_that_is_down_is_orphaned(lab: ControlLab) -> None:
    await moved(lab)
    node = lab.view.node_by_name("n1")
    assert node is not None
    await lab.state(node.record.id, NodeState.DOWN)  # type: ignore[arg-type]  # a plain id
    duty = lab.duty()
    await lab.settle(duty)
    assert ended(lab) == []
    lab.clock.advance(PATIENCE_S)
    await lab.settle(duty)
    assert ended(lab) == [("n1", "orphaned", "node n1 is down")]
    assert reasons(lab) == {"n2": "in place of n1: node n1 is down"}


async def test_constraint_that_no_longer_holds_is_named(lab: ControlLab) -> None:
    await moved(lab)
    draft = drafted("web", constraints=("node.name==n2",))
    await lab.services.update(lab.context(), "web", draft)
    await lab.settle(lab.duty())
    assert ended(lab) == [("n1", "shutdown", "node n1 does not satisfy node.name==n2")]


async def test_eviction_is_told_in_its_own_transaction(lab: ControlLab) -> None:
    await moved(lab)
    await lab.nodes.remove(lab.context(), "n1")
    why = f"node n1 was evicted by {ADMIN.name}"
    assert ended(lab) == [("n1", "shutdown", why)]
    await lab.settle(lab.duty())
    assert lab.placed("web") == {"n2"}
    assert len(ended(lab)) == 1
    node = lab.view.node_by_name("n2")
    assert node is not None
    await lab.state(node.record.id, NodeState.DOWN)  # type: ignore[arg-type]  # a plain id
    await lab.nodes.remove(lab.context(), "n2")
    assert ended(lab)[0][:2] == ("n2", "orphaned")


async def test_more_tasks_than_one_eviction_takes(lab: ControlLab) -> None:
    await lab.join("n1")
    for number in range(35):
        await lab.service(f"s{number}", uid=2000 + number)
    await lab.settle(lab.duty())
    await lab.nodes.remove(lab.context(), "n1")
    await lab.settle(lab.duty())
    assert len(lab.view.tasks) == 0
    told = [ended(lab, f"s{number}") for number in range(35)]
    assert {len(one) for one in told} == {1}
    assert all("n1 was evicted" in str(rows[0][2]) for rows in told)


async def test_fewer_replicas_are_a_reason(lab: ControlLab) -> None:
    await lab.join("n1")
    await lab.join("n2")
    await lab.service("web", replicas=2)
    await lab.settle(lab.duty())
    await lab.services.update(lab.context(), "web", drafted("web", replicas=1))
    await lab.settle(lab.duty())
    ((_, state, reason),) = ended(lab)
    assert (state, reason) == ("shutdown", "the service has fewer replicas now")


async def test_the_newest_stand_first_and_old_ones_go(lab: ControlLab) -> None:
    await lab.join("n1")
    await lab.join("n2")
    await lab.service("web")
    await lab.settle(lab.duty())
    for _ in range(KEPT + 2):
        (there,) = lab.placed("web")
        for name in ("n1", "n2"):
            drain = Availability.DRAIN if name == there else Availability.ACTIVE
            await lab.nodes.update(lab.context(), name, add_labels={}, availability=drain)
        lab.clock.advance(timedelta(seconds=1))
        await lab.settle(lab.duty(), rounds=1)
        assert ended(lab)[0][0] == there
    rows = lab.services.ended_tasks(AUDITOR, "web")
    assert len(rows) == KEPT
    assert [row["since"] for row in rows] == sorted((str(r["since"]) for r in rows), reverse=True)


async def test_history_goes_with_its_service(lab: ControlLab) -> None:
    await moved(lab)
    await lab.nodes.update(lab.context(), "n1", add_labels={}, availability=Availability.DRAIN)
    await lab.settle(lab.duty())
    assert len(lab.view.task_histories) == 1
    await lab.services.remove(lab.context(), "web")
    await lab.settle(lab.duty())
    assert len(lab.view.task_histories) == 0


async def test_history_is_in_the_reach_of_who_sees_the_service(lab: ControlLab) -> None:
    await lab.service("web")
    with pytest.raises(PermissionDenied):
        lab.services.ended_tasks(DEPLOYER, "web")
