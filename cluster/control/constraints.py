"""Placement constraints: `node.labels.KEY==VALUE`, `node.name!=VALUE`, `node.id==VALUE`. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cluster.protocol.errors import InvalidRequest
from cluster.store.records import NodeRecord

MAX_CONSTRAINTS: Final = 32
MAX_LENGTH: Final = 256

_CONSTRAINT = re.compile(
    r"\s*node\.(?:(?P<field>id|name)|labels\.(?P<label>[a-zA-Z0-9._/-]{1,64}))"
    r"\s*(?P<operator>==|!=)\s*(?P<value>[a-zA-Z0-9._/@:+-]*)\s*"
)


@dataclass(frozen=True, slots=True)
class Constraint:
    """One condition on a node."""

    field: str
    """"id", "name" or "labels"."""
    key: str
    """The label's key; empty for the other fields."""
    equal: bool
    value: str

    def holds(self, node: NodeRecord) -> bool:
        """Return whether the node satisfies it; a label that is not there differs from all."""
        match self.field:
            case "id":
                actual = node.id
            case "name":
                actual = node.name
            case _:
                labelled = node.labels.get(self.key)
                return (labelled == self.value) is self.equal
        return (actual == self.value) is self.equal

    def __str__(self) -> str:
        key = f".{self.key}" if self.key else ""
        return f"node.{self.field}{key}{'==' if self.equal else '!='}{self.value}"


def parse_constraint(text: str) -> Constraint:
    """Return the constraint in `text`, or raise InvalidRequest that shows what one looks like."""
    found = _CONSTRAINT.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if found is None:
        raise InvalidRequest(
            f"constraint {text[:64]!r} is not understood; write node.labels.KEY==VALUE, "
            "node.name==VALUE or node.id==VALUE, or != for the opposite"
        )
    label = found["label"] or ""
    return Constraint(found["field"] or "labels", label, found["operator"] == "==", found["value"])


def check_constraints(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the constraints in their plain spelling, or raise InvalidRequest."""
    parsed = tuple(str(parse_constraint(text)) for text in texts)
    if len(parsed) > MAX_CONSTRAINTS:
        raise InvalidRequest(f"a service takes at most {MAX_CONSTRAINTS} constraints")
    return parsed


def satisfies(node: NodeRecord, constraints: Iterable[str]) -> bool:
    """Return whether a node satisfies every constraint."""
    return all(parse_constraint(text).holds(node) for text in constraints)
