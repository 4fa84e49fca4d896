"""What became of tasks that ended: remembered for `service ps`, and for placement to learn from.

Pure: returns the steps that remember, in the transaction that removes the tasks. Bounded by number,
not by time: a service that never changes keeps telling of its last move. What placement still
learns from is the last to be forgotten. Source: the task history of `docker service ps`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from cluster.control.moments import moment
from cluster.control.requests import JSON
from cluster.protocol.ids import ServiceId
from cluster.store.records import (
    EndedState,
    EndedTask,
    NodeState,
    TaskHistoryRecord,
    TaskRecord,
)
from cluster.store.steps import Create, Replace, Require, Step
from cluster.store.view import View

KEPT: Final = 20
"""Ended tasks that are remembered of each service."""
AVOIDED_S: Final = 3600.0
"""For how long a service is not moved to a node where its check kept failing."""
TRIED: Final = 5
"""So many nodes in `AVOIDED_S` where its check kept failing, and the service stays where it is."""


@dataclass(frozen=True, slots=True)
class Ending:
    """A task that is to end, and why."""

    task: TaskRecord
    reason: str
    state: EndedState = EndedState.SHUTDOWN
    unwell: bool = False


def remembered(view: View, endings: Iterable[Ending], now_s: float) -> Iterator[Step]:
    """Yield a step for each service that still exists: its history with these endings."""
    of_service: defaultdict[ServiceId, list[Ending]] = defaultdict(list)
    for ending in endings:
        of_service[ending.task.service_id].append(ending)
    for service_id, ended in of_service.items():
        service = view.services.get(service_id)
        if service is None:
            continue
        newest = tuple(_ended(view, ending, now_s) for ending in ended)
        stored = view.task_histories.get(service_id)
        if stored is None:
            # Never beside its service's removal: an id that comes back reads as a replay.
            yield Require(service)
            yield Create(TaskHistoryRecord(id=service_id, ended=_kept(newest, now_s)))
        else:
            kept = _kept((*newest, *stored.record.ended), now_s)
            yield Replace(stored, msgspec.structs.replace(stored.record, ended=kept))


def avoided(view: View, now_s: float) -> dict[str, frozenset[str]]:
    """Return, by service, the nodes that a task lately left because its check kept failing."""
    found = {
        stored.record.id: frozenset(
            ended.node_id for ended in stored.record.ended if _teaches(ended, now_s)
        )
        for stored in view.task_histories.values()
    }
    return {service_id: nodes for service_id, nodes in found.items() if nodes}


def ended_shown(view: View, service_id: ServiceId) -> list[dict[str, JSON]]:
    """Return the ended tasks of a service, the newest first, as `service ps` shows them."""
    stored = view.task_histories.get(service_id)
    return [_shown(view, one) for one in stored.record.ended] if stored is not None else []


def _kept(ended: Sequence[EndedTask], now_s: float) -> tuple[EndedTask, ...]:
    """Return as many as are kept, in their order: the newest, but first what still teaches."""
    by_worth = sorted(range(len(ended)), key=lambda place: not _teaches(ended[place], now_s))
    return tuple(ended[place] for place in sorted(by_worth[:KEPT]))


def _teaches(ended: EndedTask, now_s: float) -> bool:
    return ended.unwell and now_s - ended.ended_at < AVOIDED_S


def _ended(view: View, ending: Ending, now_s: float) -> EndedTask:
    node = view.nodes.get(ending.task.node_id)
    return EndedTask(
        node_id=ending.task.node_id,
        node_name=node.record.name if node is not None else "",
        state=ending.state,
        since=ending.task.created_at,
        ended_at=now_s,
        reason=ending.reason,
        unwell=ending.unwell,
    )


def _shown(view: View, ended: EndedTask) -> dict[str, JSON]:
    """Return the fields that a running task has too, so that both stand in one list."""
    presence = view.node_statuses.get(ended.node_id)
    return {
        "node": ended.node_name or ended.node_id,
        "node_id": ended.node_id,
        "node_state": (presence.record.state if presence else NodeState.UNKNOWN).value,
        "desired_state": ended.state.value,
        "reason": ended.reason,
        "since": moment(ended.ended_at),
        "placed_at": moment(ended.since),
        "spec_number": None,
        "error": "",
        "health": "",
        "health_detail": "",
        "health_since": None,
        "references": [],
    }
