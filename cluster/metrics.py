"""What a manager counts, in Prometheus' text format.

Owns the names, labels and buckets of everything that is counted while it happens; what is read off
the state at the moment of a scrape comes as `Gauges`. A label is a route's template, a state or a
kind, never what a caller chose and never a name: names are sealed data. Source: docs/reference/
metrics.md.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_REQUEST_S: Final = (0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0)
_ENGINE_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0)
_DELIVERY_S: Final = (0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0)
_OPERATIONS: Final = (2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class Gauge:
    """One reading: a name, its help, and a value for each value of its one label ("" for none)."""

    name: str
    help: str
    values: Mapping[str, float]
    label: str = ""


class Metrics:
    """The counters and histograms of one process; every method takes a few microseconds."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "strongroom_requests",
            "HTTP requests answered, by the route's template.",
            ("listener", "method", "route", "status"),
            registry=self._registry,
        )
        self._request_s = Histogram(
            "strongroom_request_seconds",
            "Time to answer a request.",
            ("listener", "method", "route"),
            buckets=_REQUEST_S,
            registry=self._registry,
        )
        # Looking a child up by its labels costs more than counting; templates and statuses are few.
        self._answered: dict[tuple[str, str, str, int], tuple[Counter, Histogram]] = {}
        self._refused = Counter(
            "strongroom_refused",
            "Connections and requests turned away before any work, by reason.",
            ("listener", "reason"),
            registry=self._registry,
        )
        self._transaction_s = Histogram(
            "strongroom_engine_transaction_seconds",
            "Time of an engine transaction; refused: a compare did not hold.",
            ("outcome",),
            buckets=_ENGINE_S,
            registry=self._registry,
        )
        self._operations = Histogram(
            "strongroom_engine_transaction_operations",
            "Operations merged into one transaction.",
            buckets=_OPERATIONS,
            registry=self._registry,
        )
        self._barrier_s = Histogram(
            "strongroom_engine_barrier_seconds",
            "Time of a barrier, which precedes every delivery; outcome: done, failed.",
            ("outcome",),
            buckets=_ENGINE_S,
            registry=self._registry,
        )
        self._deliveries = Counter(
            "strongroom_deliveries",
            "Receipts that this manager recorded: versions it handed to a node for a service.",
            registry=self._registry,
        )
        self._delivery_s = Histogram(
            "strongroom_delivery_seconds",
            "From the receipt to the agent's report that the file is written, of this manager's.",
            buckets=_DELIVERY_S,
            registry=self._registry,
        )

    def request(self, listener: str, method: str, route: str, status: int, took_s: float) -> None:
        """Count an answered request; `route` is a template, or empty where no route matched."""
        known = method if method in METHODS and route else "other"
        key = (listener, known, route, status)
        counted = self._answered.get(key)
        if counted is None:
            counted = self._answered[key] = (
                self._requests.labels(listener, known, route, str(status)),
                self._request_s.labels(listener, known, route),
            )
        counted[0].inc()
        counted[1].observe(took_s)

    def refusing(self, listener: str, reasons: Iterable[str]) -> Callable[[str], None]:
        """Return what counts for one listener; each of `reasons` is there from the start, at 0."""
        by_reason = {reason: self._refused.labels(listener, reason) for reason in reasons}
        return lambda reason: by_reason[reason].inc()

    def transaction(self, outcome: str, operations: int, took_s: float) -> None:
        """Count an engine transaction."""
        self._transaction_s.labels(outcome).observe(took_s)
        self._operations.observe(operations)

    def barrier(self, outcome: str, took_s: float) -> None:
        """Count a barrier."""
        self._barrier_s.labels(outcome).observe(took_s)

    def delivered(self) -> None:
        """Count a receipt of this manager's."""
        self._deliveries.inc()

    def acknowledged(self, took_s: float) -> None:
        """Count an acknowledgement of a receipt of this manager's."""
        self._delivery_s.observe(max(0.0, took_s))

    def render(self, gauges: Iterable[Gauge] = ()) -> bytes:
        """Return everything as text."""
        read = CollectorRegistry()
        read.register(_Read(tuple(gauges)))
        return generate_latest(self._registry) + generate_latest(read)


class _Read(Collector):
    """Hands readings to the library."""

    def __init__(self, gauges: tuple[Gauge, ...]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        for gauge in self._gauges:
            labels = (gauge.label,) if gauge.label else ()
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=labels)
            for value, reading in gauge.values.items():
                family.add_metric((value,) if gauge.label else (), reading)
            yield family
