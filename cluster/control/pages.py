"""Pages of a list: what of it one answer shows, and after which name the next one begins.

Owns how large an answer gets. A list is never cut without a word: it is whole, or a page that says
where to go on, or refused. Filters come first: a page counts what its reader may see, and names
nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeVar

import msgspec

from cluster.control.requests import JSON
from cluster.protocol.errors import InvalidRequest
from cluster.protocol.ids import check_name
from cluster.store.records import Record
from cluster.store.view import Stored, Table

MAX_LIMIT: Final = 1_000
WHOLE_ENTRIES: Final = 10_000
"""Entries of an answer to whoever asks for no page."""
WHOLE_BYTES: Final = 7 * 1024 * 1024
"""Of such an answer: clients read 8 MiB (`cluster.protocol.https_client.RESPONSE_LIMIT`)."""
PAGE_BYTES: Final = 4 * 1024 * 1024
"""A page whose entries are larger together ends before its limit: a secret of many versions that
many services refer to takes 100 KB."""

_TOO_LONG: Final = (
    "the list is too long for one answer; ask for pages of it with `limit` and `after`"
)

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Paging:
    """Which part of a list is asked for."""

    limit: int | None = None
    """The most entries of a page; None: the whole list."""
    after: str = ""
    """The last name of the page before."""

    def check(self) -> None:
        """Raise InvalidRequest for what is no page of any list."""
        if self.limit is not None and not 1 <= self.limit <= MAX_LIMIT:
            raise InvalidRequest(f"`limit` takes 1 to {MAX_LIMIT:,}")
        if self.after and self.limit is None:
            raise InvalidRequest("`after` is for pages; say how long they are with `limit`")
        if self.after:
            check_name(self.after)


WHOLE: Final = Paging()


@dataclass(frozen=True, slots=True)
class Page:
    """A whole list, or a page of it."""

    entries: list[dict[str, JSON]]
    paged: bool = False
    next: str | None = None
    """The last name that is shown, if there is more."""

    def answer(self, key: str) -> dict[str, JSON]:
        """Return what the caller is told; a whole list says nothing of pages."""
        return {key: self.entries, **({"next": self.next} if self.paged else {})}


def page_of(
    table: Table[R],
    paging: Paging,
    prefix: str,
    seen: Callable[[R], bool],
    shown: Callable[[Stored[R]], dict[str, JSON]],
) -> Page:
    """Return a page of the records that `seen` lets through, by name.

    Raises InvalidRequest for a page that cannot be, and for a whole list that is too long.
    """
    paging.check()
    found = (one for one in table.by_name(paging.after, prefix) if seen(one.record))
    if paging.limit is None:
        return Page(_whole(list(islice(found, WHOLE_ENTRIES + 1)), shown))
    entries: list[dict[str, JSON]] = []
    size = 0
    for stored in found:
        if len(entries) < paging.limit:
            entry = shown(stored)
            size += _size(entry)
            if size <= PAGE_BYTES or not entries:
                entries.append(entry)
                continue
        return Page(entries, paged=True, next=str(entries[-1]["name"]))
    return Page(entries, paged=True)


def _whole(
    found: list[Stored[R]], shown: Callable[[Stored[R]], dict[str, JSON]]
) -> list[dict[str, JSON]]:
    if len(found) > WHOLE_ENTRIES:
        raise InvalidRequest(_TOO_LONG)
    entries = [shown(stored) for stored in found]
    if sum(map(_size, entries)) > WHOLE_BYTES:
        raise InvalidRequest(_TOO_LONG)
    return entries


def _size(entry: dict[str, JSON]) -> int:
    return len(msgspec.json.encode(entry))
