"""Records looked up as they are asked for: what a decision needs of a table, without copying it.

A view has a hundred thousand secrets where a decision asks for three. Good between two awaits, as
all that is read of a view. Pure.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

V = TypeVar("V")


class LiveRecords(Mapping[str, V]):
    """What `find` returns for an id; None: it is not there. `ids`: yields those there may be."""

    def __init__(self, find: Callable[[str], V | None], ids: Callable[[], Iterator[str]]) -> None:
        self._find = find
        self._ids = ids

    def __getitem__(self, key: str) -> V:
        found = self._find(key)
        if found is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._ids() if key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)
