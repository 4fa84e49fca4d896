"""Reading the audit: who may, what they find, and whether the chains are whole.

Owns the questions (filters, order, pages) and that a read is itself on record before it is
answered. It changes nothing else: a contradiction that a verification finds is told, and acting on
it is left to the start check and the audit duty. No entry has a field that could hold a value.
Source: DESIGN 5, ADR 0011.
"""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

import msgspec

from cluster.control.moments import moment
from cluster.control.policy import Action, Principal, Resource, authorize
from cluster.control.requests import JSON, Requests
from cluster.protocol.errors import InvalidRequest
from cluster.store.audit_index import MAX_RUN, AuditIndex, Place, Placed
from cluster.store.records import AuditEntry, AuditRecord, audit_stream
from cluster.store.start_check import Tale, checkpoint_of, read_tale
from cluster.store.steps import Write

RESOURCE: Final = Resource("audit")
SCAN_LINKS: Final = 2_000
"""Links that one request opens; whoever wants more goes on behind the last."""
MOST_ENTRIES: Final = 1_000
NOTED_S: Final = 600.0
"""The same caller with the same question is on record once in this time: following the audit would
otherwise show nothing but itself."""
NOTED_MOST: Final = 256
_TERM: Final = re.compile(r"[A-Za-z0-9._:/@\[\]-]{1,200}")
_END: Final = 2**62


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries are wanted; all that is set must hold."""

    since: float | None = None
    """Unix seconds, by the clock of the manager that wrote the entry."""
    until: float | None = None
    caller: str = ""
    """A whole caller, or the end of one: `operator/alice`."""
    action: str = ""
    """An action, or its noun: `secret`."""
    resource: str = ""
    """A resource, or its kind: `secret/db`, `secret`."""
    request_id: str = ""
    refused: bool = False

    def __post_init__(self) -> None:
        for name in ("caller", "action", "resource", "request_id"):
            text = getattr(self, name)
            if text and _TERM.fullmatch(text) is None:
                raise InvalidRequest(f"{name} is no such text as the audit holds")

    def matches(self, entry: AuditEntry) -> bool:
        """Return whether an entry is wanted."""
        return (
            (self.since is None or entry.at >= self.since)
            and (self.until is None or entry.at < self.until)
            and (not self.caller or _ends(entry.caller, self.caller))
            and (not self.action or _begins(entry.action, self.action, "."))
            and (not self.resource or _begins(entry.resource, self.resource, "/"))
            and (not self.request_id or entry.request_id == self.request_id)
            and not (self.refused and entry.allowed)
        )

    def __str__(self) -> str:
        """Return what is asked for, as the entry of the read tells it."""
        told = ((field.name, getattr(self, field.name)) for field in fields(self))
        return " ".join(f"{name}={value}" for name, value in told if value not in {None, "", False})


class AuditQuery:
    """What operators may ask of the audit."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._index = AuditIndex(requests.store)
        self._noted: dict[tuple[str, str], float] = {}
        self._verifying = asyncio.Lock()

    async def read(
        self,
        principal: Principal,
        wanted: AuditFilter,
        *,
        newest: bool = False,
        cursor: int | None = None,
        limit: int = MOST_ENTRIES,
    ) -> dict[str, JSON]:
        """Return a page of entries in the order of commit, or against it with `newest`.

        `cursor`: the position behind which to go on. `next` in the answer is where this page
        ends, null when there is no more; a page may be empty and not the last. Raises
        PermissionDenied, and what the store raises: a read that cannot be recorded is refused.
        """
        await self._record(principal, f"read {wanted}".rstrip())
        up_to = await self._index.refresh()
        entries: list[JSON] = []
        places = self._places(newest=newest, cursor=cursor)
        at: int | None = None
        for run in _runs(places):
            found = await self._index.read(run)
            for placed in reversed(found) if newest else found:
                entries += _shown(placed, wanted, newest=newest)
                at = placed.position
                if len(entries) >= min(limit, MOST_ENTRIES):
                    return _page(entries, at, up_to)
        return _page(entries, at if len(places) == SCAN_LINKS else None, up_to)

    async def verify(self, principal: Principal) -> dict[str, JSON]:
        """Recompute every chain in the store, from its checkpoint on, and compare every record with
        what they tell; return the verdict.

        Raises PermissionDenied, Unavailable if the engine cannot be read.
        """
        return verdict(await self.tale(principal, "verify"))

    async def tale(self, principal: Principal, detail: str) -> Tale:
        """Return what the chains tell and what contradicts it, for a reader who is put on record
        with `detail` before.

        Raises PermissionDenied, Unavailable if the engine cannot be read.
        """
        await self._record(principal, detail)
        async with self._verifying:
            tale = await self._tale()
            # What was put back under a running manager it met itself, and believes its own memory.
            faults = [(fault.kind, fault.what) for fault in self._requests.store.view.faults]
            tale.wrong += [fault for fault in faults if fault not in tale.wrong]
            return tale

    async def _tale(self) -> Tale:
        store = self._requests.store
        while True:
            await store.barrier()
            tale = await read_tale(store)
            if not tale.wrong:
                return tale
            # Links are deleted only behind a committed checkpoint, so a barrier shows it.
            await store.barrier()
            if checkpoint_of(store) == tale.checkpoint:
                return tale

    def _places(self, *, newest: bool, cursor: int | None) -> list[Place]:
        if newest:
            before = _END if cursor is None else cursor
            return list(self._index.newest_first(before, SCAN_LINKS))
        return list(self._index.oldest_first(cursor or 0, SCAN_LINKS))

    async def _record(self, principal: Principal, detail: str) -> None:
        self._requests.check(principal, Action.AUDIT_READ, RESOURCE)
        now_s = self._requests.clock.monotonic_s()
        key = (principal.name, detail)
        noted_s = self._noted.get(key)
        if noted_s is not None and now_s - noted_s < NOTED_S:
            return
        entry = authorize(principal, Action.AUDIT_READ, RESOURCE, self._requests.clock.now())
        entry = msgspec.structs.replace(entry, detail=detail)
        await self._requests.store.commit(Write((), (entry,)))
        if len(self._noted) >= NOTED_MOST:
            # Forgetting only means that the next of them is on record again.
            self._noted.clear()
        self._noted[key] = now_s


def _runs(places: list[Place]) -> Iterator[list[Place]]:
    for start in range(0, len(places), MAX_RUN):
        yield places[start : start + MAX_RUN]


def _page(entries: list[JSON], at: int | None, up_to: int) -> dict[str, JSON]:
    return {"entries": entries, "next": at, "up_to": up_to}


def _shown(placed: Placed, wanted: AuditFilter, *, newest: bool) -> list[JSON]:
    """Return the wanted entries of a link, each with its place in its chain."""
    found: list[JSON] = [
        entry_shown(placed.link, entry, placed.position)
        for entry in placed.link.entries
        if wanted.matches(entry)
    ]
    return found[::-1] if newest else found


def entry_shown(
    link: AuditRecord, entry: AuditEntry, position: int | None = None
) -> dict[str, JSON]:
    """Return an entry as answers show it; one that was exported has no position any more."""
    return {
        "position": position,
        "at": moment(entry.at),
        "caller": entry.caller,
        "action": entry.action,
        "resource": entry.resource,
        "allowed": entry.allowed,
        "count": entry.count,
        "detail": entry.detail,
        "request_id": entry.request_id,
        "chain": audit_stream(link.manager_id, link.boot, link.lane),
        "link": link.sequence,
    }


def verdict(tale: Tale) -> dict[str, JSON]:
    """Return what a verification found, as answers show it."""
    checkpoint = tale.checkpoint
    return {
        "whole": not tale.wrong,
        "revision": tale.revision,
        "links": tale.links,
        "chains": [
            {"chain": head.stream, "last_link": head.sequence, "digest": head.digest.hex()}
            for head in tale.heads.values()
        ],
        "records": len(tale.present),
        "checkpoint": None
        if checkpoint is None
        else {
            "number": checkpoint.number,
            "at": moment(checkpoint.at),
            "revision": checkpoint.revision,
            "exported_by": checkpoint.exported_by,
            "export": checkpoint.export,
        },
        "wrong": [{"kind": kind, "what": what} for kind, what in tale.wrong],
    }


def _ends(text: str, wanted: str) -> bool:
    return text == wanted or text.endswith(f"/{wanted}")


def _begins(text: str, wanted: str, separator: str) -> bool:
    return text == wanted or text.startswith(f"{wanted}{separator}")
