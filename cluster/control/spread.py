"""Placement preferences: `spread=node.labels.KEY`, the tasks of a service even over its values.

Pure. A preference says where new tasks go first and which surplus task goes first; it never moves a
task that may stay, and never keeps one from a node that fits. Nodes without the label are a group
of their own. Several preferences nest: even over the first label, within each of its values even
over the second. Source: placement preferences of `docker service create`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
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


def best(
    candidates: Sequence[NodeRecord], held: Sequence[NodeRecord], texts: Sequence[str], rank: Rank
) -> NodeRecord:
    """Return the node for a service's next task.

    `candidates`: not empty; `held`: where its tasks are, a node for each task.
    """
    for label in map(_label, texts):
        counts = Counter(node.labels.get(label, "") for node in held)
        groups = _groups(candidates, label)
        value = min(groups, key=lambda v: (counts[v], min(map(rank, groups[v])), v))
        candidates, held = groups[value], [n for n in held if n.labels.get(label, "") == value]
    return min(candidates, key=rank)


def worst(
    candidates: Sequence[NodeRecord], held: Sequence[NodeRecord], texts: Sequence[str], rank: Rank
) -> NodeRecord:
    """Return the node that gives up a task first; arguments as `best` has them."""
    for label in map(_label, texts):
        counts = Counter(node.labels.get(label, "") for node in held)
        groups = _groups(candidates, label)
        value = max(groups, key=lambda v: (counts[v], max(map(rank, groups[v])), v))
        candidates, held = groups[value], [n for n in held if n.labels.get(label, "") == value]
    return max(candidates, key=rank)


def _groups(nodes: Iterable[NodeRecord], label: str) -> dict[str, list[NodeRecord]]:
    groups: dict[str, list[NodeRecord]] = {}
    for node in nodes:
        groups.setdefault(node.labels.get(label, ""), []).append(node)
    return groups


def _label(text: str) -> str:
    found = _PREFERENCE.fullmatch(text)
    if found is None:
        raise InvalidRequest(
            f"placement preference {text[:64]!r} is not understood; write spread=node.labels.KEY"
        )
    return found["label"]
