"""An agent's metrics in Prometheus' text format.

Owns names and help of what an agent tells; the numbers are `agent.counted`'s. Loaded only where a
listener is configured: the library takes about a megabyte. No label is a name. Source: docs/
reference/metrics.md.
"""

from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from agent.counted import APPLY_S, Counted, Standing

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_PREFIX: Final = "strongroom_agent_"


def render(counted: Counted, standing: Standing) -> bytes:
    """Return everything as text."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Read(counted, standing))
    return generate_latest(registry)


class _Read(Collector):
    """Hands the numbers to the library."""

    def __init__(self, counted: Counted, standing: Standing) -> None:
        self._counted = counted
        self._standing = standing

    def collect(self) -> Iterable[Metric]:
        yield from self._counters()
        yield self._apply()
        yield from self._gauges()

    def _counters(self) -> Iterable[Metric]:
        counted = self._counted
        for name, text, value in (
            ("links", "Links to managers that opened.", counted.connected),
            ("sessions_lost", "Sessions lost, or not to be had.", counted.lost),
            ("leases_lapsed", "Times that files went because their lease ran out.", counted.lapsed),
        ):
            yield CounterMetricFamily(_PREFIX + name, text, value=value)

    def _apply(self) -> Metric:
        bounds = [*map(str, APPLY_S), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counted.apply_counts), strict=True))
        return HistogramMetricFamily(
            _PREFIX + "apply_seconds",
            "Time to put what is assigned in place.",
            buckets=buckets,
            sum_value=self._counted.apply_total_s,
        )

    def _gauges(self) -> Iterable[Metric]:
        now = self._standing
        for name, text, value in (
            ("in_session", "Whether a manager's assignments are in force.", now.in_session),
            ("since_applied_seconds", "Since assignments were put in place.", now.since_applied_s),
            ("services", "Services with files here.", now.services),
            ("files", "Files in place.", now.files),
            ("files_lapsed", "Files that went because their lease ran out.", now.files_lapsed),
            ("lease_seconds_left", "Of the node's lease; below 0: run out.", now.lease_left_s),
            (
                "certificate_seconds_left",
                "Until the node's certificate ends.",
                now.certificate_left_s,
            ),
            (
                "certificate_faults",
                "Services whose certificate could not be had.",
                now.certificate_faults,
            ),
        ):
            if value is not None:
                yield GaugeMetricFamily(_PREFIX + name, text, value=float(value))
