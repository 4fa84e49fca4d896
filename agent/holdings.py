"""What a node should hold, holds, and has been told: manifests, staged values and the highest
revision (pure).

Owns the rule that a node never goes back, and the short life of a value between the wire and a
mount: staged by `stage`, handed out by `work`, dropped by `settle`, sealed all the while. Must not
open a value or do any IO. Source:
DESIGN 6; `agent.session` has the theory of operation.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum, auto
from itertools import islice

import msgspec

from agent.assignments import version_key
from agent.effects import Apply
from cluster.pki.node_envelope import SealedValue
from cluster.protocol.ids import Incarnation, is_id
from cluster.protocol.wire import (
    REQUEST_IDS,
    FileSpec,
    RevisionPair,
    ServiceAssignment,
    ServiceResult,
    VersionKey,
)

Covers = Callable[[FileSpec], bool]
"""Whether a file may be there now."""


class Verdict(Enum):
    """What a revision is to an agent that has seen others."""

    CURRENT = auto()
    OLDER = auto()
    FOREIGN = auto()
    """Of a lower incarnation, or of one with the same counter and another id."""


class Holdings:
    """The node's side of its manifests."""

    def __init__(self, highest: RevisionPair | None, mounted: Iterable[ServiceAssignment]) -> None:
        self.highest = highest
        """The highest revision ever accepted."""
        self.desired: Mapping[str, ServiceAssignment] = {s.service_id: s for s in mounted}
        self._mounted = {i: version_keys((s,)) for i, s in self.desired.items()}
        self._values: dict[VersionKey, SealedValue] = {}
        self._request_ids: tuple[str, ...] = ()
        """Of the requests that made what is not in place yet."""

    def judge(self, revision: RevisionPair) -> Verdict:
        """Return whether `revision` may be accepted; an equal one may: its manifest is the same."""
        if self.highest is None:
            return Verdict.CURRENT
        new, seen = _incarnation(revision), _incarnation(self.highest)
        if not new.supersedes(seen):
            return Verdict.FOREIGN
        if new == seen and revision.number < self.highest.number:
            return Verdict.OLDER
        return Verdict.CURRENT

    def stage(self, values: Mapping[VersionKey, SealedValue]) -> None:
        """Keep values until the manifest that needs them is applied."""
        self._values = {**values, **self._values}

    def discard(self, keys: Iterable[VersionKey]) -> None:
        """Forget staged values that do not open: they have to be sent again."""
        for key in keys:
            self._values.pop(key, None)

    def held(self) -> tuple[VersionKey, ...]:
        """Return the versions whose values need not be sent: mounted or staged."""
        keys = set(self._values).union(*self._mounted.values())
        return tuple(sorted(keys, key=lambda key: (key.secret_id, key.version)))

    def lacks(self, services: Iterable[ServiceAssignment], covers: Covers) -> bool:
        """Return whether a value is missing to publish `services`."""
        return not version_keys(under_lease(services, covers)) <= set(self.held())

    def accept(
        self,
        revision: RevisionPair,
        desired: Mapping[str, ServiceAssignment],
        request_ids: Iterable[str] = (),
    ) -> bool:
        """Make a judged manifest the one in force; return whether it raised `highest`.

        Of its request ids, what has not the shape of one, or is too much, is left out.
        """
        raised = revision != self.highest
        self.highest, self.desired = revision, desired
        told = dict.fromkeys((*filter(is_id, request_ids), *self._request_ids))
        self._request_ids = tuple(islice(told, REQUEST_IDS))
        self._drop_values(keep=version_keys(desired.values()))
        return raised

    def work(self, revision: RevisionPair, covers: Covers) -> Apply:
        """Return the work of making the mounts match, without the files no lease covers."""
        services = under_lease(self.desired.values(), covers)
        return Apply(revision, services, dict(self._values), self._request_ids)

    def settle(self, results: Collection[ServiceResult], *, complete: bool) -> None:
        """Take in what is mounted now, and drop the values that rest there.

        `complete`: no file was left out for want of a lease. Only then is every request done here.
        """
        if complete and not any(result.error for result in results):
            self._request_ids = ()
        self._mounted = {r.service_id: frozenset(r.mounted) for r in results if r.mounted}
        mounted = frozenset[VersionKey]().union(*self._mounted.values())
        self._drop_values(keep=version_keys(self.desired.values()) - mounted)

    def uncovered(self, covers: Covers) -> frozenset[tuple[str, str]]:
        """Return the files that no lease covers, by service id and target."""
        return frozenset(
            (service.service_id, file.target)
            for service in self.desired.values()
            for file in service.files
            if not covers(file)
        )

    def lapse(self, covers: Covers) -> tuple[ServiceAssignment, ...]:
        """Forget what no lease covers; return the services it takes files from, each with what it
        keeps.
        """
        lapsed = [s for s in self.desired.values() if not all(map(covers, s.files))]
        kept = under_lease(lapsed, covers)
        for service in kept:
            mounted = self._mounted.pop(service.service_id, frozenset())
            self._mounted[service.service_id] = mounted & version_keys((service,))
        self._drop_values(keep=version_keys(under_lease(self.desired.values(), covers)))
        return kept

    def shortest_lease_s(self) -> float:
        """Return the shortest lease that a file has of its own; infinity without any."""
        files = (file for service in self.desired.values() for file in service.files)
        leases = (f.lease_s for f in files if f.wipe_on_lease_loss and f.lease_s is not None)
        return min(leases, default=math.inf)

    def clear(self) -> None:
        """Forget everything but the highest revision."""
        self.desired, self._mounted, self._request_ids = {}, {}, ()
        self._drop_values(keep=frozenset())

    def _drop_values(self, keep: frozenset[VersionKey]) -> None:
        self.discard(self._values.keys() - keep)


def version_keys(services: Iterable[ServiceAssignment]) -> frozenset[VersionKey]:
    """Return the versions that `services` refer to."""
    return frozenset(version_key(file) for service in services for file in service.files)


def under_lease(
    services: Iterable[ServiceAssignment], covers: Covers
) -> tuple[ServiceAssignment, ...]:
    """Return `services` with the files that may be there now."""
    return tuple(msgspec.structs.replace(s, files=tuple(filter(covers, s.files))) for s in services)


def _incarnation(revision: RevisionPair) -> Incarnation:
    return Incarnation(revision.counter, revision.unique)
