"""Events: what happened to the cluster's objects, who did it, in the order of commit; resumable.

Owns what counts as an event, how it is told, and who may see which: whoever may list an object may
follow it, and a label that is taken away is obeyed from the next event on. An event is derived from
the record as it was and as it is, so it needs no record of its own, and has no field that could
hold a value. Types and actions are named as Swarm names its own (`docker events`).
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cluster.control.moments import moment
from cluster.control.policy import Action, Principal, Resource, Role, in_reach
from cluster.control.requests import JSON, Requests
from cluster.protocol.errors import HistoryGone, InvalidRequest
from cluster.protocol.ids import Revision
from cluster.store.past import Happened, Moment, Past
from cluster.store.records import (
    Kind,
    ManagerRecord,
    ManagerState,
    NodeRecord,
    NodeStatusRecord,
    OperatorRecord,
    Record,
    SecretRecord,
    ServiceRecord,
    VersionedRecord,
)

RESOURCE: Final = Resource("event")
SIGN_OF_LIFE_S: Final = 10.0
"""Silence after which a line without an event is sent: it tells how far the follower has read."""
SHOWN_S: Final = 10.0
"""How long the view may lag behind an event, whose readers are judged by it."""
KINDS: Final = (
    Kind.SECRET, Kind.CONFIG, Kind.SERVICE, Kind.NODE, Kind.NODE_STATUS, Kind.MANAGER,
    Kind.OPERATOR,
)  # fmt: skip
TYPES: Final = ("secret", "config", "service", "node", "manager", "operator")
ACTIONS: Final = ("create", "update", "remove")

Line = Mapping[str, JSON]
"""An event, or `{"revision": ...}` alone: all events up to there were sent."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are wanted: of each field one that is named; a field that names none takes
    all."""

    types: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, types: Sequence[str], actions: Sequence[str], names: Sequence[str]
    ) -> "EventFilter":
        """Return the filter, or raise InvalidRequest for a type or an action that never comes."""
        if not set(types) <= set(TYPES):
            raise InvalidRequest(f"the types of events are {', '.join(TYPES)}")
        if not set(actions) <= set(ACTIONS):
            raise InvalidRequest(f"the actions of events are {', '.join(ACTIONS)}")
        return cls(frozenset(types), frozenset(actions), frozenset(names))

    def takes(self, event: "Event") -> bool:
        """Return whether an event is wanted."""
        return (
            (not self.types or event.type in self.types)
            and (not self.actions or event.action in self.actions)
            and (not self.names or event.name in self.names)
        )


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to one object."""

    type: str
    action: str
    id: str
    name: str
    attributes: Mapping[str, JSON] = field(default_factory=dict)
    labels: tuple[Mapping[str, str], ...] = ()
    """The object's, before and after: what puts it within a deployer's reach. Never shown."""

    def reaches(self, principal: Principal) -> bool:
        """Return whether this operator may know of it: secrets, configs and services by their
        labels, the rest as the lists of nodes, managers and operators."""
        if principal.role is not Role.DEPLOYER:
            return in_reach(principal, {})
        return any(in_reach(principal, labels) for labels in self.labels)


def event_of(happened: Happened, name_of_node: Callable[[str], str]) -> Event | None:
    """Return the event in a change of a record; None where nothing happened to the object."""
    change = happened.change
    known = [record for record in (change.before, change.after) if record is not None]
    if change.kind is Kind.NODE_STATUS:
        told = _told(change.before, change.after)
        name = name_of_node(change.id)
        # The state's own record goes with the node's, which tells of it.
        if change.after is None or not told:
            return None
        return Event("node", "update", change.id, name, told)
    was, stands = _stands(change.before), _stands(change.after)
    if not (was or stands):
        return None
    action = "update" if was and stands else "create" if stands else "remove"
    told = _told(change.before if was else None, change.after) if stands else {}
    return Event(change.kind.value, action, change.id, _name(known[-1]), told, _labels(known))


class Events:
    """What operators may follow."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def open(
        self,
        who: Callable[[], Principal],
        wanted: EventFilter,
        *,
        since: str | None = None,
        follow: bool = False,
    ) -> AsyncGenerator[Line, None]:
        """Return the events behind revision `since`, for ever with `follow`, else up to now.

        Without `since`: from now on, or with no `follow` all that is kept. `who` is asked again
        before each revision is told: rights that were taken away end the stream. Raises
        PermissionDenied, HistoryGone, InvalidRequest; the stream may end with HistoryGone as well.
        """
        store = self._requests.store
        self._requests.check(who(), Action.EVENT_LIST, RESOURCE)
        start = None if since is None else await self._number(since)
        up_to = None if follow else await store.mark()
        if start is None and follow:
            start = store.view.revision
        past = Past(store, KINDS)
        await past.begin(start)
        return self._lines(past, who, wanted, up_to)

    async def _number(self, since: str) -> int:
        store = self._requests.store
        seen = Revision.parse(since)
        if seen.incarnation.counter < store.incarnation.counter:
            raise HistoryGone(
                "that revision is of an earlier life of the store; look at how things stand, "
                "and follow from now"
            )
        await store.catch_up(seen)
        if seen.incarnation != store.incarnation or seen.number < 1:
            raise InvalidRequest("that is no revision of this store")
        return seen.number

    async def _lines(
        self,
        past: Past,
        who: Callable[[], Principal],
        wanted: EventFilter,
        up_to: int | None,
    ) -> AsyncGenerator[Line, None]:
        store, clock = self._requests.store, self._requests.clock
        told, sent_s = past.since, clock.monotonic_s()
        if up_to is None:
            # From here on it is known where to go on, should the connection be lost at once.
            yield {"revision": str(store.revision(told))}
        async with contextlib.aclosing(_or_silence(past.moments())) as moments:
            async for happened in moments:
                found: list[Line] = []
                if happened is not None:
                    if up_to is not None and happened.revision > up_to:
                        return
                    told = happened.revision
                    found = await self._events(happened, who, wanted)
                for line in found:
                    yield line
                # A busy store without an event that is wanted is silence to the follower.
                if found or told == up_to or clock.monotonic_s() - sent_s >= SIGN_OF_LIFE_S:
                    yield {"revision": str(store.revision(told))}
                    sent_s = clock.monotonic_s()
                if told == up_to:
                    return

    async def _events(
        self, happened: Moment, who: Callable[[], Principal], wanted: EventFilter
    ) -> list[Line]:
        if not happened.happened:
            return []
        store = self._requests.store
        # Judged by the records as they stand at this revision or later, never before it.
        await store.view.wait_for(happened.revision, SHOWN_S)
        principal = who()
        self._requests.check(principal, Action.EVENT_LIST, RESOURCE)
        revision = str(store.revision(happened.revision))
        lines: list[Line] = []
        for one in happened.happened:
            event = event_of(one, self._name_of_node)
            if event is not None and wanted.takes(event) and event.reaches(principal):
                lines.append(_line(revision, event, one))
        return lines

    def _name_of_node(self, node_id: str) -> str:
        stored = self._requests.store.view.nodes.get(node_id)
        return stored.record.name if stored is not None else node_id


def _line(revision: str, event: Event, happened: Happened) -> Line:
    entry = happened.entry
    return {
        "revision": revision,
        "type": event.type,
        "action": event.action,
        "id": event.id,
        "name": event.name,
        "at": moment(entry.at) if entry is not None else None,
        "by": entry.caller if entry is not None else None,
        "cause": entry.action if entry is not None else None,
        "request_id": (entry.request_id or None) if entry is not None else None,
        "attributes": event.attributes,
    }


async def _or_silence(
    moments: AsyncGenerator[Moment, None],
) -> AsyncGenerator[Moment | None, None]:
    """Yield each moment, and None after each stretch of silence."""
    coming: asyncio.Task[Moment | None] | None = None
    try:
        while True:
            coming = coming or asyncio.create_task(_next(moments))
            await asyncio.wait((coming,), timeout=SIGN_OF_LIFE_S)
            if not coming.done():
                yield None
                continue
            arrived, coming = coming.result(), None
            if arrived is None:
                return
            yield arrived
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        await moments.aclose()


async def _next(moments: AsyncIterator[Moment]) -> Moment | None:
    return await anext(moments, None)


def _stands(record: Record | None) -> bool:
    """Return whether the object is part of the cluster: some records outlive what they tell of."""
    match record:
        case None:
            return False
        case NodeRecord():
            return record.revoked_at is None
        case OperatorRecord():
            return record.removed_at is None
        case ManagerRecord():
            return record.state in {ManagerState.PENDING, ManagerState.ACTIVE}
        case _:
            return True


def _name(record: Record) -> str:
    match record:
        case VersionedRecord() | ServiceRecord() | NodeRecord() | ManagerRecord():
            return record.name
        case _:
            return record.id


def _labels(records: Sequence[Record]) -> tuple[Mapping[str, str], ...]:
    """Return the labels by which deployers reach an object; the rest is out of their reach."""
    found: list[Mapping[str, str]] = []
    for record in records:
        match record:
            case VersionedRecord():
                found.append(record.labels)
            case ServiceRecord():
                found.append(record.spec.labels)
            case _:
                pass
    return tuple(found)


def _told(before: Record | None, after: Record | None) -> dict[str, JSON]:
    """Return what an event tells of the change: Swarm's `NAME.old` and `NAME.new`."""
    old, new = _attributes(before), _attributes(after)
    told: dict[str, JSON] = {}
    for name, value in new.items():
        if old.get(name) == value:
            continue
        if name in old:
            told[f"{name}.old"] = old[name]
        told[f"{name}.new"] = value
    return told


def _attributes(record: Record | None) -> dict[str, JSON]:
    match record:
        case SecretRecord():
            warned = record.primary.warned
            return {"version": record.primary.number, **({"warning": warned} if warned else {})}
        case ServiceRecord():
            return {"spec": record.spec_number}
        case NodeRecord():
            return {"availability": record.availability.value}
        case NodeStatusRecord() | ManagerRecord():
            return {"state": record.state.value}
        case OperatorRecord():
            return {"role": record.role.value}
        case _:
            return {}
