"""Placement preferences: `spread=node.labels.KEY`, the tasks of a service even over its values.

Pure. A preference says where new tasks go first and which surplus task goes first; it never moves a
task that may stay, and never keeps one from a node that fits. Nodes without the label are a group
of their own. Several preferences nest: even over the first label, within each of its values even
over the second. Source: placement preferences of `docker service create`.
"""

import heapq
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from cluster.protocol.errors import InvalidRequest
from cluster.store.records import NodeRecord

MAX_PREFERENCES: Final = 8

Rank = Callable[[NodeRecord], Any]
"""Orders nodes: the least is the best."""

_PREFERENCE = re.compile(r"spread=node\.labels\.(?P<label>[a-zA-Z0-9._/-]{1,64})")


def check_preferences(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the preferences, or raise InvalidRequest that shows what one looks like."""
    checked = tuple(texts)
    for text in checked:
        _label(text)
    if len(checked) > MAX_PREFERENCES or len(set(checked)) < len(checked):
        raise InvalidRequest(
            f"a service takes at most {MAX_PREFERENCES} placement preferences, each once"
        )
    return checked


def best_first(
    candidates: Iterable[NodeRecord], held: Iterable[NodeRecord], texts: Sequence[str], rank: Rank
) -> Iterator[NodeRecord]:
    """Yield the nodes for a service's next tasks, one after the other.

    `held`: where its tasks are, a node for each task; each node that was yielded counts too.
    """
    return _drawn(sorted(candidates, key=rank), held, texts, sign=1)


def worst_first(
    candidates: Iterable[NodeRecord], held: Iterable[NodeRecord], texts: Sequence[str], rank: Rank
) -> Iterator[NodeRecord]:
    """Yield the nodes that give up a task first, one after the other.

    `held`: where the service's tasks are, the candidates' too; what was yielded counts no more.
    """
    return _drawn(sorted(candidates, key=rank, reverse=True), held, texts, sign=-1)


def _drawn(
    order: Sequence[NodeRecord], held: Iterable[NodeRecord], texts: Sequence[str], sign: int
) -> Iterator[NodeRecord]:
    """Yield every node of `order`, the first first where no preference says otherwise."""
    numbered = list(enumerate(order))
    root = _Group(numbered, list(held), [_label(text) for text in texts], sign, set())
    for _ in order:
        yield order[root.take()]


class _Group:
    """The nodes of one value by their places in the order, split by what is preferred next.

    Taking one costs no look at the others: a cluster has thousands.
    """

    def __init__(
        self,
        numbered: Sequence[tuple[int, NodeRecord]],
        held: Sequence[NodeRecord],
        labels: Sequence[str],
        sign: int,
        taken: set[int],
    ) -> None:
        """Split `numbered`, which is not empty unless it is all.

        `sign`: 1 where the group with the fewest held goes first, -1 where the one with the most;
        `taken`: places that were taken, of all groups.
        """
        self._left = [place for place, _ in reversed(numbered)]
        self._taken = taken
        self._parts: list[tuple[int, int, _Group]] = []
        if not labels:
            return
        inside, holding = _by_value(numbered, held, labels[0])
        for value, part in inside.items():
            mine = holding[value]
            group = _Group(part, mine, labels[1:], sign, taken)
            self._parts.append((sign * len(mine), part[0][0], group))
        heapq.heapify(self._parts)

    def take(self) -> int:
        """Take the next place out of this group, which has one left, and return it."""
        if not self._parts:
            place = self._left.pop()
            self._taken.add(place)
            return place
        weight, _, part = self._parts[0]
        place = part.take()
        first = part.first()
        if first is None:
            heapq.heappop(self._parts)
        else:
            # One more is held there, or one less: either way its turn comes later.
            heapq.heapreplace(self._parts, (weight + 1, first, part))
        return place

    def first(self) -> int | None:
        """Return the first place that is left, or None."""
        while self._left and self._left[-1] in self._taken:
            self._left.pop()
        return self._left[-1] if self._left else None


def _by_value(
    numbered: Iterable[tuple[int, NodeRecord]], held: Iterable[NodeRecord], label: str
) -> tuple[dict[str, list[tuple[int, NodeRecord]]], defaultdict[str, list[NodeRecord]]]:
    """Return the nodes, and those that hold tasks, by their value of a label."""
    inside = defaultdict[str, list[tuple[int, NodeRecord]]](list)
    holding = defaultdict[str, list[NodeRecord]](list)
    for place, node in numbered:
        inside[node.labels.get(label, "")].append((place, node))
    for node in held:
        holding[node.labels.get(label, "")].append(node)
    return inside, holding


def _label(text: str) -> str:
    found = _PREFERENCE.fullmatch(text)
    if found is None:
        raise InvalidRequest(
            f"placement preference {text[:64]!r} is not understood; write spread=node.labels.KEY"
        )
    return found["label"]
