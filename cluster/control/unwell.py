"""Tasks that their service's own check has failed for too long: another node is to be tried.

Owns the judgement; where a task goes is `placement`'s business. The application is not ours to
restart, and moving a task takes its secrets away from where the application runs, so nothing moves
unless the service asks for it (`replace_after_s`). Even then a task moves only where another node
may help: not while an open rollout changes the service, which judges that itself; not while all of
several tasks are unhealthy, for then the change or what they all depend on is at fault, and not the
node; and not while a new task has yet to show how it does, so that one moves after the other.
Source: docs/how-to/tasks.md.
"""

from typing import Final

from cluster.protocol.ids import ServiceId
from cluster.store.records import (
    Kind,
    Record,
    RolloutRecord,
    TaskRecord,
    TaskStatusRecord,
)
from cluster.store.view import View, ViewChange

LOOK_AGAIN_S: Final = 15.0


class Unwell:
    """Remembers when the next task has been unhealthy for too long."""

    def __init__(self) -> None:
        self._due_at: float | None = None
        self._asked = True
        """Whether any service has its tasks moved at all."""

    def notice(self, change: ViewChange) -> bool:
        """Return whether a change may make a task unwell, or well."""
        return self._asked and any(
            _stands(changed.before) != _stands(changed.after)
            for changed in change.changed
            if changed.kind in {Kind.TASK_STATUS, Kind.ROLLOUT}
        )

    def is_due(self, now_s: float) -> bool:
        """Return whether a task became unwell since the last judgement."""
        return self._due_at is not None and now_s >= self._due_at

    def next_look_s(self, now_s: float) -> float:
        """Return in how many seconds to look again."""
        if self._due_at is None or self._due_at <= now_s:
            return LOOK_AGAIN_S
        return min(self._due_at - now_s, LOOK_AGAIN_S)

    def judge(self, view: View, now_s: float) -> dict[str, str]:
        """Return why another node is to be tried, by the id of the task."""
        found: dict[str, str] = {}
        pending: list[float] = []
        asking = {
            stored.record.id: health.replace_after_s
            for stored in view.services.values()
            if (health := stored.record.spec.health) is not None and health.replace_after_s
        }
        self._asked = bool(asking)
        busy = _under_change(view) if asking else set()
        for service_id in sorted(asking.keys() - busy):
            shown_at = _shown_at(view, ServiceId(service_id), asking[service_id])
            if shown_at > now_s:
                pending.append(shown_at)
                continue
            for task, status, since in _failing(view, ServiceId(service_id)):
                ends_at = since + asking[service_id]
                if ends_at <= now_s:
                    found[task.id] = _reason(status, now_s - since)
                else:
                    pending.append(ends_at)
        self._due_at = min(pending, default=None)
        return found


def _failing(view: View, service_id: ServiceId) -> list[tuple[TaskRecord, TaskStatusRecord, float]]:
    """Return the unhealthy tasks that another node may help, each with since when."""
    tasks = [stored.record for stored in view.tasks_of_service(service_id)]
    statuses = [(task, view.task_statuses.get(task.id)) for task in tasks]
    failing = [
        # A status may be left from an earlier task on the same node.
        (task, stored.record, max(stored.record.health_at, task.created_at))
        for task, stored in statuses
        if stored is not None and stored.record.healthy is False
    ]
    healthy = any(stored is not None and stored.record.healthy for _, stored in statuses)
    return failing if healthy or len(tasks) == 1 else []


def _shown_at(view: View, service_id: ServiceId, patience_s: float) -> float:
    """Return until when a new task of a service is waited for: it has no verdict yet."""
    tasks = [stored.record for stored in view.tasks_of_service(service_id)]
    statuses = [(task, view.task_statuses.get(task.id)) for task in tasks]
    return max(
        (
            task.created_at + patience_s
            for task, stored in statuses
            if stored is None
            or stored.record.healthy is None
            or stored.record.health_at < task.created_at
        ),
        default=0.0,
    )


def _under_change(view: View) -> set[str]:
    """Return the services whose tasks an open rollout concerns."""
    rollouts = (stored.record for stored in view.rollouts.values())
    return {
        target.service_id
        for rollout in rollouts
        if rollout.finished_at is None
        for target in rollout.targets
    }


def _reason(status: TaskStatusRecord, lasted_s: float) -> str:
    detail = f": {status.health_detail}" if status.health_detail else ""
    return f"unhealthy for {lasted_s:.0f} s{detail}"


def _stands(record: Record | None) -> bool | None:
    """Return what a task's check says, or whether a rollout is open."""
    match record:
        case TaskStatusRecord():
            return record.healthy
        case RolloutRecord():
            return record.finished_at is None
        case _:
            return None
