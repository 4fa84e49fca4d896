"""Tasks whose service's own check keeps failing: which of them move, where to, and when."""

from datetime import timedelta

import msgspec
import pytest

from cluster.control.placement_duty import PlacementDuty
from cluster.control.task_history import AVOIDED_S, KEPT, TRIED, avoided
from cluster.control.update_draft import HealthDraft
from cluster.protocol.errors import InvalidRequest
from cluster.protocol.ids import NodeId, ServiceId
from cluster.store.records import (
    Availability,
    RolloutState,
    TaskStatusRecord,
    UpdatePolicy,
    task_id,
)
from tests.unit.control.lab import AUDITOR, ControlLab, drafted

AFTER_S = 30.0
HEALTH = HealthDraft(process=True, replace_after_s=AFTER_S)


async def verdict(lab: ControlLab, node: str, healthy: bool | None, service: str = "web") -> None:
    """Record what the service's check says on a node from now on."""
    stored, found = lab.view.service_by_name(service), lab.view.node_by_name(node)
    assert stored is not None
    assert found is not None
    now = lab.clock.now().timestamp()
    await lab.write(
        TaskStatusRecord(
            id=task_id(ServiceId(stored.record.id), NodeId(found.record.id)),
            spec_number=stored.record.spec_number,
            at=now,
            healthy=healthy,
            health_detail="" if healthy else "exit status 1",
            health_at=now,
        )
    )


async def started(lab: ControlLab, nodes: int, **fields: object) -> PlacementDuty:
    """Have web placed, with its first rollout over, on the first of several nodes."""
    for number in range(1, nodes + 1):
        await lab.join(f"n{number}")
    await lab.service("web", **{"health": HEALTH, **fields})
    duty = lab.duty()
    await lab.settle(duty)
    await rolled_out(lab, over=True)
    return duty


async def rolled_out(lab: ControlLab, *, over: bool) -> None:
    """Have every rollout over, or paused until somebody looks after it."""
    for stored in lab.view.rollouts.values():
        await lab.write(
            msgspec.structs.replace(
                stored.record,
                policy=UpdatePolicy(monitor_s=5.0),
                state=RolloutState.FINISHED if over else RolloutState.PAUSED,
                finished_at=1.0 if over else None,
            )
        )


def elsewhere(lab: ControlLab) -> str:
    (node,) = lab.placed("web")
    return node


async def test_task_moves_when_it_was_unhealthy_for_too_long(lab: ControlLab) -> None:
    duty = await started(lab, 2)
    first = elsewhere(lab)
    await verdict(lab, first, healthy=False)
    lab.clock.advance(AFTER_S - 1)
    await lab.settle(duty)
    assert elsewhere(lab) == first
    lab.clock.advance(1)
    await duty.round()
    assert elsewhere(lab) != first
    (row,) = lab.services.ended_tasks(AUDITOR, "web")
    assert (row["node"], row["desired_state"]) == (first, "shutdown")
    assert row["reason"] == "unhealthy for 30 s: exit status 1"
    (task,) = lab.services.tasks(AUDITOR, "web")
    assert task["reason"] == f"in place of {first}: unhealthy for 30 s: exit status 1"


async def test_nothing_moves_unless_the_service_asks_for_it(lab: ControlLab) -> None:
    duty = await started(lab, 2, health=HealthDraft(process=True))
    first = elsewhere(lab)
    await verdict(lab, first, healthy=False)
    lab.clock.advance(timedelta(hours=9))
    await lab.settle(duty)
    assert elsewhere(lab) == first


@pytest.mark.parametrize("healthy", [True, None])
async def test_only_a_verdict_against_it_counts(lab: ControlLab, healthy: bool | None) -> None:
    duty = await started(lab, 2)
    first = elsewhere(lab)
    await verdict(lab, first, healthy=healthy)
    lab.clock.advance(timedelta(hours=9))
    await lab.settle(duty)
    assert elsewhere(lab) == first


async def test_where_it_was_tried_is_not_tried_again_soon(lab: ControlLab) -> None:
    """A service that works nowhere is not carried round and round."""
    duty = await started(lab, 3)
    seen = [elsewhere(lab)]
    for _ in range(5):
        await verdict(lab, elsewhere(lab), healthy=False)
        lab.clock.advance(AFTER_S)
        await lab.settle(duty)
        seen.append(elsewhere(lab))
    assert len(set(seen[:3])) == 3
    assert set(seen[2:]) == {seen[2]}
    lab.clock.advance(AVOIDED_S)
    await lab.settle(duty)
    assert elsewhere(lab) != seen[2]


async def test_a_service_that_is_broken_itself_does_not_tour_the_cluster(lab: ControlLab) -> None:
    """However many nodes there are: each move hands its secrets to one more of them."""
    duty = await started(lab, KEPT + 5)
    moves = list[float]()
    for _ in range(200):
        before = elsewhere(lab)
        await verdict(lab, before, healthy=False)
        lab.clock.advance(AFTER_S)
        await lab.settle(duty, rounds=1)
        if elsewhere(lab) != before:
            moves.append(lab.clock.now().timestamp())
    assert len(moves) > TRIED, "an hour later it is tried again"
    assert max(sum(0 <= at - first < AVOIDED_S for at in moves) for first in moves) == TRIED == 5


async def test_why_a_node_is_avoided_is_forgotten_last(lab: ControlLab) -> None:
    """Not for tasks that ended for any other reason, however many."""
    duty = await started(lab, 3)
    first = elsewhere(lab)
    left = lab.view.node_by_name(first)
    assert left is not None
    await verdict(lab, first, healthy=False)
    lab.clock.advance(AFTER_S)
    await lab.settle(duty, rounds=1)
    others = {"n1", "n2", "n3"} - {first}
    for _ in range(KEPT + 2):
        there = elsewhere(lab)
        assert there != first
        for name in others:
            drain = Availability.DRAIN if name == there else Availability.ACTIVE
            await lab.nodes.update(lab.context(), name, add_labels={}, availability=drain)
        await lab.settle(duty, rounds=1)
    rows = lab.services.ended_tasks(AUDITOR, "web")
    assert (len(rows), rows[-1]["node"]) == (KEPT, first)
    (nodes,) = avoided(lab.view, lab.clock.now().timestamp()).values()
    assert nodes == {left.record.id}
    # In an hour it teaches nothing any more, and goes as the oldest.
    lab.clock.advance(AVOIDED_S)
    await lab.nodes.update(
        lab.context(), elsewhere(lab), add_labels={}, availability=Availability.DRAIN
    )
    await lab.settle(duty)
    rows = lab.services.ended_tasks(AUDITOR, "web")
    assert len(rows) == KEPT
    assert first not in {row["node"] for row in rows}


async def test_all_of_several_unhealthy_is_not_the_nodes_fault(lab: ControlLab) -> None:
    duty = await started(lab, 3, replicas=2)
    before = lab.placed("web")
    for node in before:
        await verdict(lab, node, healthy=False)
    lab.clock.advance(AFTER_S)
    await lab.settle(duty)
    assert lab.placed("web") == before
    well, unwell = sorted(before)
    await verdict(lab, well, healthy=True)
    await lab.settle(duty)
    assert well in lab.placed("web")
    assert unwell not in lab.placed("web")


@pytest.mark.parametrize("shows", [True, None])
async def test_the_next_task_moves_once_the_last_has_shown_how_it_does(
    lab: ControlLab, shows: bool | None
) -> None:
    duty = await started(lab, 5, replicas=3)
    first, second, well = sorted(lab.placed("web"))
    spare = {f"n{number}" for number in range(1, 6)} - {first, second, well}
    for node in (first, second):
        await verdict(lab, node, healthy=False)
    await verdict(lab, well, healthy=True)
    lab.clock.advance(AFTER_S)
    await lab.settle(duty, rounds=5)
    (moved,) = lab.placed("web") & spare
    assert len(lab.placed("web") & {first, second}) == 1
    lab.clock.advance(AFTER_S - 1)
    if shows:
        await verdict(lab, moved, healthy=True)
    else:
        await lab.settle(duty)
        assert lab.placed("web") & spare == {moved}
        lab.clock.advance(1)
    # By itself: it is due then, though nothing else changed.
    await (lab.settle(duty) if shows else duty.round())
    assert lab.placed("web") == {well, *spare}


async def test_what_is_left_of_an_earlier_task_shows_nothing_of_a_new_one(lab: ControlLab) -> None:
    duty = await started(lab, 4, replicas=2)
    unwell, well = sorted(lab.placed("web"))
    await verdict(lab, unwell, healthy=False)
    await verdict(lab, well, healthy=True)
    for node in {"n1", "n2", "n3", "n4"} - {unwell, well}:
        await verdict(lab, node, healthy=True)
    lab.clock.advance(AFTER_S - 1)
    draft = drafted("web", health=HEALTH, replicas=3)
    await lab.services.update(lab.context(), "web", draft)
    await lab.settle(duty, rounds=1)
    await rolled_out(lab, over=True)
    (fresh,) = lab.placed("web") - {unwell, well}
    lab.clock.advance(1)
    await lab.settle(duty)
    assert lab.placed("web") == {unwell, well, fresh}
    await verdict(lab, fresh, healthy=True)
    await lab.settle(duty)
    assert unwell not in lab.placed("web")


async def test_an_open_rollout_judges_its_own_change(lab: ControlLab) -> None:
    duty = await started(lab, 2)
    await rolled_out(lab, over=False)
    first = elsewhere(lab)
    await verdict(lab, first, healthy=False)
    lab.clock.advance(AFTER_S)
    await lab.settle(duty)
    assert elsewhere(lab) == first
    await rolled_out(lab, over=True)
    await lab.settle(duty)
    assert elsewhere(lab) != first


async def test_a_task_without_another_node_stays(lab: ControlLab) -> None:
    duty = await started(lab, 1)
    await verdict(lab, "n1", healthy=False)
    lab.clock.advance(AFTER_S)
    await lab.settle(duty)
    assert elsewhere(lab) == "n1"
    await lab.join("n2")
    await lab.settle(duty)
    assert elsewhere(lab) == "n2"


async def test_a_verdict_on_an_earlier_task_does_not_count(lab: ControlLab) -> None:
    """What is left of a task that was there before must not move the one that came back."""
    duty = await started(lab, 1)
    await verdict(lab, "n1", healthy=False)
    (stored,) = lab.view.task_statuses.values()
    old = stored.record
    lab.clock.advance(AFTER_S - 1)
    await lab.services.update(lab.context(), "web", drafted("web", health=HEALTH, replicas=0))
    await lab.settle(duty, rounds=1)
    assert lab.placed("web") == set()
    await lab.services.update(lab.context(), "web", drafted("web", health=HEALTH))
    await lab.settle(duty, rounds=1)
    await rolled_out(lab, over=True)
    await lab.join("n2")
    lab.clock.advance(1)
    # The status is swept in time; one that another manager wrote late is still there.
    await lab.write(old)
    await lab.settle(duty)
    assert elsewhere(lab) == "n1"


async def test_surplus_is_taken_from_the_unwell(lab: ControlLab) -> None:
    duty = await started(lab, 3, replicas=3)
    await verdict(lab, "n1", healthy=False)
    await verdict(lab, "n2", healthy=True)
    lab.clock.advance(AFTER_S)
    draft = drafted("web", health=HEALTH, replicas=2)
    await lab.services.update(lab.context(), "web", draft)
    await rolled_out(lab, over=True)
    await lab.settle(duty)
    assert lab.placed("web") == {"n2", "n3"}


@pytest.mark.parametrize("seconds", [1.0, -5.0, 1e9, float("nan")])
async def test_a_time_out_of_range_is_refused(lab: ControlLab, seconds: float) -> None:
    health = HealthDraft(process=True, replace_after_s=seconds)
    with pytest.raises(InvalidRequest, match="unhealthy task is replaced"):
        await lab.services.create(lab.context(), drafted("web", health=health))
