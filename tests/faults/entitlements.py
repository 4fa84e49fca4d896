"""Which files each task must have, by the records of one revision: a second, plain reading of what
the product decides. Pure.

Records are plain dictionaries, as they were written. A task holds what an open rollout has not
released to it; anything else follows the primary, or the version it names.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Body = dict[str, Any]
Place = tuple[str, str]
"""Service id and node id."""
Files = Mapping[str, tuple[str, int]]
"""Target -> secret id and version."""
Event = tuple[int, float, Sequence[tuple[str, str, Body | None]]]
"""A revision, when it was seen, and its changes: kind, id, and the record or None if it went."""

KINDS: Final = ("secret", "service", "task", "node", "receipt", "rollout", "rotation")
_DECIDING: Final = frozenset({"secret", "service", "task", "rollout"})
_HOLDING: Final = frozenset({"running", "paused"})
_ISSUED: Final = frozenset({"primary", "active"})


@dataclass(slots=True)
class Records:
    """The records of one revision, by kind and id."""

    tables: dict[str, dict[str, Body]] = field(default_factory=lambda: {kind: {} for kind in KINDS})

    def take(self, kind: str, record_id: str, body: Body | None) -> None:
        """Take a change in."""
        if body is None:
            self.tables[kind].pop(record_id, None)
        else:
            self.tables[kind][record_id] = body

    def all_files(self) -> dict[Place, Files]:
        """Return the files of every task that has any."""
        rollouts = list(map(_held, filter(is_holding, self.tables["rollout"].values())))
        found = {}
        for task in self.tables["task"].values():
            files = self._files(task, rollouts)
            if files:
                found[task["service_id"], task["node_id"]] = files
        return found

    def _files(self, task: Body, rollouts: "Sequence[_Held]") -> Files:
        service = self.tables["service"].get(task["service_id"])
        if service is None or task["state"] != "running":
            return {}
        place = (task["service_id"], task["node_id"])
        spec = service["spec"]
        for one in rollouts:
            if one.rollout["service_id"] == service["id"] and (number := one.number(place)):
                held = [s["spec"] for s in one.rollout["held_specs"] if s["number"] == number]
                spec = held[0] if held else spec
        files: dict[str, tuple[str, int]] = {}
        for reference in spec["references"]:
            self._add(files, reference, place, rollouts)
        return files

    def _add(
        self,
        files: dict[str, tuple[str, int]],
        reference: Body,
        place: Place,
        rollouts: "Sequence[_Held]",
    ) -> None:
        secret = self.tables["secret"].get(reference["secret_id"])
        if secret is None:
            return
        versions = {one["number"]: one for one in secret["versions"]}
        number = reference["version"]
        if number is None:
            number = primary_of(secret)
            for one in rollouts:
                if one.rollout["secret_id"] == secret["id"]:
                    number = one.number(place) or number
        if number not in versions or versions[number]["state"] not in _ISSUED:
            return
        files[reference["target"]] = (secret["id"], number)
        before = _before(secret, versions[number])
        if reference["previous"] and before is not None and before["state"] == "active":
            files[reference["target"] + ".previous"] = (secret["id"], before["number"])


@dataclass(frozen=True, slots=True)
class _Held:
    """An open rollout with its targets."""

    rollout: Body
    targets: Mapping[Place, Body]

    def number(self, place: Place) -> int | None:
        """Return the version, or the spec, that a task is held at."""
        good: int | None = self.rollout["before_version"] or self.rollout["before_spec_number"]
        target = self.targets.get(place)
        if target is None:
            passed = self.rollout["canary_passed"] and self.rollout["state"] == "running"
            return None if passed else good
        if target["released_at"] is not None:
            return None
        before: int | None = target["before"]
        return before or good


def _held(rollout: Body) -> _Held:
    targets = {(one["service_id"], one["node_id"]): one for one in rollout["targets"]}
    return _Held(rollout, targets)


def is_holding(rollout: Body) -> bool:
    """Return whether a rollout may keep something from tasks."""
    started = rollout["policy"] is not None and rollout["finished_at"] is None
    return started and rollout["state"] in _HOLDING


def primary_of(secret: Body) -> int | None:
    """Return the number of the primary version."""
    return next((v["number"] for v in secret["versions"] if v["state"] == "primary"), None)


def _before(secret: Body, version: Body) -> Body | None:
    """Return the version that was primary before `version`; one that it was rolled back from, with
    a higher number, does not count."""
    turn = version["left_turn"] or float("inf")
    earlier = [
        one
        for one in secret["versions"]
        if 0 < one["left_turn"] < turn and one["number"] < version["number"]
    ]
    return max(earlier, key=lambda one: one["left_turn"], default=None)


@dataclass(slots=True)
class Timeline:
    """The files of each task from one change to the next, and the last records."""

    changes: dict[Place, list[tuple[int, Files]]] = field(default_factory=dict)
    """By revision; empty files from when a task has none."""
    first: dict[tuple[str, str, str, int], int] = field(default_factory=dict)
    """Service, node, secret, version -> the first revision at which the task was to have it."""
    service_names: dict[str, str] = field(default_factory=dict)
    node_names: dict[str, str] = field(default_factory=dict)
    secret_names: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Iterable[Event]) -> "Timeline":
        """Return the timeline of a run."""
        timeline, records = cls(), Records()
        now: dict[Place, Files] = {}
        for revision, _, changes in events:
            for kind, record_id, body in changes:
                records.take(kind, record_id, body)
                timeline._name(kind, record_id, body)
            if any(kind in _DECIDING for kind, _, _ in changes):
                after = records.all_files()
                timeline._changed(revision, now, after)
                now = after
        return timeline

    def _name(self, kind: str, record_id: str, body: Body | None) -> None:
        names = {
            "service": self.service_names,
            "node": self.node_names,
            "secret": self.secret_names,
        }.get(kind)
        if names is not None and body is not None:
            names[record_id] = body["name"]

    def _changed(
        self, revision: int, before: Mapping[Place, Files], after: Mapping[Place, Files]
    ) -> None:
        for place in before.keys() | after.keys():
            files = after.get(place, {})
            if files == before.get(place, {}):
                continue
            self.changes.setdefault(place, []).append((revision, files))
            for secret_id, version in files.values():
                self.first.setdefault((*place, secret_id, version), revision)

    def of_node(self, node_id: str, revision: int) -> set[tuple[str, str, int]]:
        """Return what a node was to have at a revision: service, secret and version."""
        found = set()
        for (service_id, node), changes in self.changes.items():
            if node != node_id:
                continue
            index = bisect_right(changes, revision, key=lambda change: change[0])
            files = changes[index - 1][1] if index else {}
            found |= {(service_id, *file) for file in files.values()}
        return found

    def versions(self, node: str, service: str, target: str) -> list[tuple[str, int]]:
        """Return what a file was to hold, one after the other, by names: secret and version."""
        moments = [
            (revision, files[target])
            for (service_id, node_id), changes in self.changes.items()
            if (self.node_names.get(node_id), self.service_names.get(service_id)) == (node, service)
            for revision, files in changes
            if target in files
        ]
        return list(_distinct(self._named(file) for _, file in sorted(moments)))

    def _named(self, file: tuple[str, int]) -> tuple[str, int]:
        return self.secret_names.get(file[0], file[0]), file[1]


def _distinct(items: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    last = None
    for item in items:
        if item != last:
            yield item
        last = item
