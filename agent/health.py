"""When a service is asked whether it works, and what its answers mean (pure).

Theory of operation
-------------------
Every service in place that has a check gets a *watch*, for exactly what is in place: service,
spec, versions and the check itself. A watch begins unknown; anything of that changing begins a new
one, so that no answer ever speaks for other versions than it was given about.

    unknown    --success-->  healthy      --`retries` failures in a row-->  unhealthy
    unknown    --`retries` failures in a row-->  unhealthy                  --success-->  healthy

The first check comes one interval after the change: a service needs a moment to take it in, and one
that still lives on what it had before would answer well. The next one comes an interval after the
last has ended. A service has one check in flight at most, the node `AT_ONCE`; who waits longest
goes first.

What is told: each verdict once over each link; the manager behind a new one may not know it.
Must not read a clock or do any IO. Source: DESIGN 6, docs/how-to/health-checks.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agent.assignments import version_key
from cluster.protocol.wire import HealthCheck, HealthReport, ServiceAssignment, VersionKey

AT_ONCE: Final = 8
"""Checks in flight on a node at most."""
MIN_INTERVAL_S: Final = 0.5
MAX_INTERVAL_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Basis:
    """What a verdict is about."""

    service_id: str
    name: str
    uid: int
    spec_number: int
    mounted: tuple[VersionKey, ...]
    check: HealthCheck


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check came to; `detail` says why not, and never what the check printed."""

    healthy: bool
    detail: str = ""


@dataclass(slots=True)
class _Watch:
    basis: Basis
    due_s: float
    failures: int = 0
    verdict: Finding | None = None
    told: tuple[int, bool] | None = None
    """The link and the verdict that went over it."""


def basis_of(service: ServiceAssignment) -> Basis | None:
    """Return what a verdict on a service in place is about; None where no check is asked for."""
    if service.health is None:
        return None
    return Basis(
        service_id=service.service_id,
        name=service.name,
        uid=service.uid,
        spec_number=service.spec_number,
        mounted=tuple(sorted({version_key(file) for file in service.files}, key=_order)),
        check=service.health,
    )


class HealthWatch:
    """The watches of one node."""

    def __init__(self) -> None:
        self._watches: dict[str, _Watch] = {}
        self._in_flight: set[str] = set()

    def follow(self, services: Iterable[ServiceAssignment], now_s: float) -> tuple[str, ...]:
        """Take in what is in place; return the services whose check in flight is about nothing
        now.
        """
        wanted = {b.service_id: b for s in services if (b := basis_of(s)) is not None}
        ended = [i for i, watch in self._watches.items() if wanted.get(i) != watch.basis]
        for service_id in ended:
            del self._watches[service_id]
        for service_id, basis in wanted.items():
            if service_id not in self._watches:
                self._watches[service_id] = _Watch(basis, now_s + _interval_s(basis))
        return tuple(i for i in ended if i in self._in_flight)

    def start_due(self, now_s: float) -> tuple[Basis, ...]:
        """Return the checks to begin now; each counts as in flight until `finish`."""
        due = [
            watch
            for service_id, watch in self._watches.items()
            if watch.due_s <= now_s and service_id not in self._in_flight
        ]
        due.sort(key=lambda watch: (watch.due_s, watch.basis.service_id))
        begun = tuple(watch.basis for watch in due[: AT_ONCE - len(self._in_flight)])
        self._in_flight.update(basis.service_id for basis in begun)
        return begun

    def finish(self, basis: Basis, finding: Finding | None, now_s: float) -> None:
        """Take in how the check of a `start_due` ended; None: it was given up."""
        self._in_flight.discard(basis.service_id)
        watch = self._watches.get(basis.service_id)
        if watch is None or watch.basis is not basis:
            return
        watch.due_s = now_s + _interval_s(basis)
        if finding is None:
            return
        watch.failures = 0 if finding.healthy else watch.failures + 1
        if finding.healthy or watch.failures >= max(basis.check.retries, 1):
            watch.verdict = finding

    def reports(self, link: int) -> tuple[HealthReport, ...]:
        """Return the verdicts that `link` was not told yet; they count as told from now on."""
        news: list[HealthReport] = []
        for watch in self._watches.values():
            verdict = watch.verdict
            if verdict is not None and watch.told != (link, verdict.healthy):
                watch.told = (link, verdict.healthy)
                news.append(_report(watch.basis, verdict))
        return tuple(news)


def _report(basis: Basis, verdict: Finding) -> HealthReport:
    return HealthReport(
        basis.service_id, basis.spec_number, basis.mounted, verdict.healthy, verdict.detail
    )


def _interval_s(basis: Basis) -> float:
    return min(max(basis.check.interval_s, MIN_INTERVAL_S), MAX_INTERVAL_S)


def _order(key: VersionKey) -> tuple[str, int]:
    return (key.secret_id, key.version)
