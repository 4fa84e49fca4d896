"""The order of names follows what comes and goes, and is made once."""

import random

import pytest

from cluster.protocol.errors import IntegrityError, InvariantViolation
from cluster.store.name_order import NameOrder
from cluster.store.records import Kind, NameRecord, NodeRecord
from cluster.store.view import Stored, View


class CountedName(str):
    """A name that counts how often any is compared with another."""

    __slots__ = ()
    compared = 0

    def __lt__(self, other: str) -> bool:
        CountedName.compared += 1
        return str.__lt__(self, other)

    __hash__ = str.__hash__


def put(view: View, record_id: str, name: str, revoked_at: float | None = None) -> None:
    record = NodeRecord(id=record_id, name=name, created_at=0.0, revoked_at=revoked_at)
    view.put(Stored(record, 1, 1))


def listed(view: View, after: str = "", prefix: str = "") -> list[tuple[str, str]]:
    found = view.nodes.by_name(after, prefix)
    return [(stored.record.name, stored.record.id) for stored in found]


def test_it_follows_what_comes_goes_and_is_renamed(seed: int) -> None:
    draw, view, known = random.Random(seed), View(str.encode), dict[str, str]()
    for turn in range(500):
        record_id, name = f"n{draw.randrange(40)}", f"{draw.choice('ab')}{draw.randrange(15)}"
        if draw.random() < 0.3:
            view.drop(Kind.NODE, record_id)
            known.pop(record_id, None)
        else:
            put(view, record_id, name)
            known[record_id] = name
        if turn > 50:
            found = listed(view)
            assert [name for name, _ in found] == sorted(known.values())
            assert {record_id: name for name, record_id in found} == known
            after = draw.choice(["", "a", "a7", "b", "zz"])
            expected = sorted(n for n in known.values() if n > after and n.startswith("b1"))
            assert [name for name, _ in listed(view, after, "b1")] == expected


def test_an_evicted_node_and_its_successor_share_a_name() -> None:
    view = View(str.encode)
    put(view, "old", "n1")
    assert listed(view) == [("n1", "old")]
    put(view, "old", "n1", revoked_at=1.0)
    put(view, "new", "n1")
    assert {record_id for _, record_id in listed(view)} == {"old", "new"}
    view.drop(Kind.NODE, "old")
    assert listed(view) == [("n1", "new")]


def test_names_are_sorted_once_whatever_comes_and_is_asked() -> None:
    view, count = View(str.encode), 2_000
    for number in range(count):
        put(view, f"n{number}", CountedName(f"{number * 7_919 % count:05}"))
    CountedName.compared = 0
    listed(view)
    first = CountedName.compared
    assert first >= count
    CountedName.compared = 0
    for number in range(100):
        put(view, f"more{number}", CountedName(f"x{number}"))
        assert len(listed(view, CountedName("01000"))) == 999 + number + 1
    assert CountedName.compared < 100 * 50


def test_a_poisoned_kind_is_not_listed() -> None:
    view = View(str.encode)
    put(view, "a", "a")
    view.fault(Kind.NODE.value, "a test")
    with pytest.raises(IntegrityError):
        view.nodes.by_name()


def test_what_has_no_name_is_not_listed_by_name() -> None:
    claim = NameRecord(id="n1", owner="n1")
    with pytest.raises(InvariantViolation):
        NameOrder([claim])
