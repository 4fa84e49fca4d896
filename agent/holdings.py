"""What a node should hold, holds, and has been told: manifests, staged values and the highest
revision (pure).

Owns the rule that a node never goes back, and the short life of a value between the wire and a
mount: staged by `stage`, handed out by `work`, dropped by `settle`, sealed all the while. Must not
open a value or do any IO. Source:
DESIGN 6; `agent.session` has the theory of operation.
"""

from collections.abc import Iterable, Mapping
from enum import Enum, auto

import msgspec

from agent.assignments import version_key
from agent.effects import Apply
from cluster.pki.node_envelope import SealedValue
from cluster.protocol.ids import Incarnation
from cluster.protocol.wire import (
    FileSpec,
    RevisionPair,
    ServiceAssignment,
    ServiceResult,
    VersionKey,
)


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

    def lacks(self, services: Iterable[ServiceAssignment], *, lapsed: bool) -> bool:
        """Return whether a value is missing to publish `services`."""
        return not version_keys(under_lease(services, lapsed=lapsed)) <= set(self.held())

    def accept(self, revision: RevisionPair, desired: Mapping[str, ServiceAssignment]) -> bool:
        """Make a judged manifest the one in force; return whether it raised `highest`."""
        raised = revision != self.highest
        self.highest, self.desired = revision, desired
        self._drop_values(keep=version_keys(desired.values()))
        return raised

    def work(self, revision: RevisionPair, *, lapsed: bool) -> Apply:
        """Return the work of making the mounts match, without the files a lapsed lease does not
        cover.
        """
        services = under_lease(self.desired.values(), lapsed=lapsed)
        return Apply(revision, services, dict(self._values))

    def settle(self, results: Iterable[ServiceResult]) -> None:
        """Take in what is mounted now, and drop the values that rest there."""
        self._mounted = {r.service_id: frozenset(r.mounted) for r in results if r.mounted}
        mounted = frozenset[VersionKey]().union(*self._mounted.values())
        self._drop_values(keep=version_keys(self.desired.values()) - mounted)

    def lapse(self) -> tuple[ServiceAssignment, ...]:
        """Forget what the lost lease covered; return the services to wipe, each with the files it
        keeps.
        """
        lapsed = [service for service in self.desired.values() if _leased(service)]
        kept = under_lease(lapsed, lapsed=True)
        for service in kept:
            mounted = self._mounted.pop(service.service_id, frozenset())
            self._mounted[service.service_id] = mounted & version_keys((service,))
        self._drop_values(keep=version_keys(under_lease(self.desired.values(), lapsed=True)))
        return kept

    def has_leased(self) -> bool:
        """Return whether any file is wiped when the lease is lost."""
        return any(_leased(service) for service in self.desired.values())

    def clear(self) -> None:
        """Forget everything but the highest revision."""
        self.desired, self._mounted = {}, {}
        self._drop_values(keep=frozenset())

    def _drop_values(self, keep: frozenset[VersionKey]) -> None:
        self.discard(self._values.keys() - keep)


def version_keys(services: Iterable[ServiceAssignment]) -> frozenset[VersionKey]:
    """Return the versions that `services` refer to."""
    return frozenset(version_key(file) for service in services for file in service.files)


def under_lease(
    services: Iterable[ServiceAssignment], *, lapsed: bool
) -> tuple[ServiceAssignment, ...]:
    """Return `services` with the files that may be there now."""
    if not lapsed:
        return tuple(services)
    return tuple(msgspec.structs.replace(s, files=_unleased(s.files)) for s in services)


def _unleased(files: Iterable[FileSpec]) -> tuple[FileSpec, ...]:
    return tuple(file for file in files if not file.wipe_on_lease_loss)


def _leased(service: ServiceAssignment) -> bool:
    return any(file.wipe_on_lease_loss for file in service.files)


def _incarnation(revision: RevisionPair) -> Incarnation:
    return Incarnation(revision.counter, revision.unique)
