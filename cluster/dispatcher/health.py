"""A service's health: what its nodes are told to check, and which verdicts count. Pure.

A verdict counts only for what the task's status says is in place: an agent reports a change of the
mounted versions first (Ack), and that resets the verdict. Source: DESIGN 6.
"""

import msgspec

from cluster.protocol.wire import HealthCheck, HealthReport
from cluster.store.records import Health, TaskStatusRecord


def health_assigned(health: Health | None) -> HealthCheck | None:
    """Return a service's check as its nodes are told."""
    if health is None:
        return None
    kind = "exec" if health.command else "http" if health.url else "process"
    return HealthCheck(
        kind=kind,
        command=health.command,
        url=health.url,
        interval_s=health.interval_s,
        timeout_s=health.timeout_s,
        retries=health.retries,
    )


def with_health(status: TaskStatusRecord, before: TaskStatusRecord | None) -> TaskStatusRecord:
    """Return a new status with the verdict of the one before, if it is about the same versions."""
    if before is None or _in_place(before) != _in_place(status):
        return status
    return msgspec.structs.replace(
        status,
        healthy=before.healthy,
        health_detail=before.health_detail,
        health_at=before.health_at,
    )


def is_about(report: HealthReport, status: TaskStatusRecord) -> bool:
    """Return whether a report was made for what `status` says is in place."""
    mounted = frozenset((key.secret_id, key.version) for key in report.mounted)
    return (report.spec_number, mounted) == _in_place(status)


def _in_place(status: TaskStatusRecord) -> tuple[int, frozenset[tuple[str, int]]]:
    return status.spec_number, frozenset((one.secret_id, one.version) for one in status.mounted)
