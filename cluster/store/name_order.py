"""The order of names: which records of a kind come after a name, without sorting them each time.

Owns the names of one kind and the ids of their records, side by side. It is made when a list is
first asked for, and follows every record that comes or goes from then on: a page of a long list
costs what it shows.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from cluster.protocol.errors import InvariantViolation
from cluster.store.records import ConfigRecord, NodeRecord, Record, SecretRecord, ServiceRecord


class NameOrder:
    """The names of a kind's records in order; two records may have one name (an evicted node)."""

    def __init__(self, records: Iterable[Record]) -> None:
        ordered = sorted(records, key=name_of)
        self._names = [name_of(record) for record in ordered]
        self._ids = [record.id for record in ordered]

    def move(self, before: Record | None, after: Record | None) -> None:
        """Follow one record from its state before to its state after; None: it does not exist."""
        if before is not None and after is not None and name_of(before) == name_of(after):
            return
        if before is not None:
            at = self._ids.index(before.id, bisect_left(self._names, name_of(before)))
            del self._names[at], self._ids[at]
        if after is not None:
            at = bisect_right(self._names, name_of(after))
            self._names.insert(at, name_of(after))
            self._ids.insert(at, after.id)

    def ids(self, after: str, prefix: str) -> Iterator[str]:
        """Yield the ids of the records whose name comes after `after` and starts with `prefix`.

        To be used up before anything changes.
        """
        names = self._names
        first = max(bisect_right(names, after), bisect_left(names, prefix))
        for at in range(first, len(names)):
            if not names[at].startswith(prefix):
                return
            yield self._ids[at]


def name_of(record: Record) -> str:
    """Return the name that a record is listed by."""
    if isinstance(record, SecretRecord | ConfigRecord | NodeRecord | ServiceRecord):
        return record.name
    raise InvariantViolation(f"records of kind '{record.kind}' are not listed by name")
