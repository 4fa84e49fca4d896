"""Placement constraints."""

import pytest

from cluster.control.constraints import check_constraints, parse_constraint, satisfies
from cluster.protocol.errors import InvalidRequest
from cluster.store.records import NodeRecord

NODE = NodeRecord(id="n" * 26, name="n1", labels={"zone": "a", "gpu": ""}, created_at=0.0)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("node.labels.zone==a", True),
        ("node.labels.zone==b", False),
        ("node.labels.zone!=a", False),
        ("node.labels.zone!=b", True),
        ("node.labels.absent==a", False),
        ("node.labels.absent!=a", True),
        ("node.labels.gpu==", True),
        ("node.labels.absent==", False),
        ("node.name==n1", True),
        ("node.name!=n1", False),
        (f"node.id=={'n' * 26}", True),
        (" node.name  ==  n1 ", True),
    ],
)
def test_constraints_say_what_they_mean(text: str, holds: bool) -> None:
    assert satisfies(NODE, [text]) is holds
    assert satisfies(NODE, check_constraints([text])) is holds


@pytest.mark.parametrize(
    "text",
    ["", "node.zone==a", "node.labels.==a", "node.labels.zone=a", "node.labels.zone>a",
     "node.name==a b", "node.name==a;rm", "zone==a", "node.name==n1\nnode.name==n2", "x" * 300],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="write node"):
        parse_constraint(text)


def test_every_constraint_must_hold() -> None:
    assert not satisfies(NODE, ["node.labels.zone==a", "node.name==n2"])
