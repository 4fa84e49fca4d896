"""What an agent says of its services' health, on its way into the tasks' statuses.

Owns what is kept until it can be written. An agent speaks for the tasks of its own node alone; the
rest is dropped, as it is in acks. Which verdict counts is `dispatcher.health`'s. Source: DESIGN 6.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

import msgspec
import structlog

from cluster.dispatcher.health import is_about
from cluster.dispatcher.receipt_changes import ERROR_LENGTH
from cluster.dispatcher.receipts import CHANGES_PER_WRITE
from cluster.protocol.ids import NodeId, ServiceId
from cluster.protocol.wire import HealthReport
from cluster.store.records import TaskStatusRecord, task_id
from cluster.store.sealed_store import Replace, SealedStore, Write
from cluster.store.view import Stored, View
from cluster.system import Clock

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class HealthNotes:
    """The reports of one node's session that are still to be written, the newest of each service.

    The session's reader takes them in, its pusher writes them: so a report that was made before a
    delivery is written before the next one, and never meets versions it was not made for.
    """

    store: SealedStore
    clock: Clock
    node_id: NodeId
    _reports: dict[str, HealthReport] = field(default_factory=dict)

    def take(self, report: HealthReport) -> None:
        """Remember a report until `write`, if it is about what is in place here.

        Acks before it have been written by now, so that one on anything else has come too late, or
        is made up: kept, it would let a node fill our memory with all it can think of.
        """
        stored = _status_of(self.store.view, self.node_id, report)
        if stored is None or not is_about(report, stored.record):
            log.info("agent.health_dropped", node_id=self.node_id)
            return
        detail = "" if report.healthy else report.detail[:ERROR_LENGTH]
        self._reports[report.service_id] = msgspec.structs.replace(report, detail=detail)

    async def write(self) -> None:
        """Write what changed, many services at once.

        Raises what the store raises; the reports are kept then and written with the next call.
        """
        while batch := dict(islice(self._reports.items(), CHANGES_PER_WRITE)):
            await self.store.update(lambda view, b=batch: self._decide(view, b.values()))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            for service_id, report in batch.items():
                log.info(
                    "service.health",
                    node_id=self.node_id,
                    service_id=service_id,
                    healthy=report.healthy,
                )
                if self._reports.get(service_id) is report:
                    del self._reports[service_id]

    def _decide(self, view: View, reports: Iterable[HealthReport]) -> Write | None:
        steps = tuple(step for report in reports for step in self._change(view, report))
        return Write(steps=steps) if steps else None

    def _change(self, view: View, report: HealthReport) -> Iterable[Replace]:
        stored = _status_of(view, self.node_id, report)
        if stored is None or not is_about(report, stored.record):
            return
        before = stored.record
        if (before.healthy, before.health_detail) == (report.healthy, report.detail):
            return
        changed = before.healthy is not report.healthy
        since = self.clock.now().timestamp() if changed else before.health_at
        yield Replace(
            stored,
            msgspec.structs.replace(
                before, healthy=report.healthy, health_detail=report.detail, health_at=since
            ),
        )


def _status_of(
    view: View, node_id: NodeId, report: HealthReport
) -> Stored[TaskStatusRecord] | None:
    return view.task_statuses.get(task_id(ServiceId(report.service_id), node_id))
