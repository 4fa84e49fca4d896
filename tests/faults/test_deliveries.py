"""The judges of files, deliveries and replicas find what is planted, and pass what is right."""

from dataclasses import replace
from typing import Any

import pytest

from tests.faults.deliveries import (
    Receipt,
    desired_files,
    differences,
    file_faults,
    probe_faults,
    replica_faults,
    waiting_faults,
)
from tests.faults.history import Operation
from tests.faults.observer import BROKEN, Sight

VALUES = {"a": ("s0", 1), "b": ("s0", 2), "x": ("s1", 1), "u": ("s0", None)}
RECEIPTS = [Receipt("s0", number, "n1", "id", f"k{number}") for number in (1, 2)]
LASTING = [("n1", "v0", "s0")]


def seen(*marks: str) -> list[str]:
    sights = [Sight(float(at), "n1", "v0", "s0", mark) for at, mark in enumerate(marks)]
    wanted = [("s0", 1), ("s0", 2)]
    return list(
        file_faults(sights, VALUES, RECEIPTS, {"id": "v0"}, LASTING, lambda *_place: wanted)
    )


def test_files_that_follow_the_rotations_pass() -> None:
    assert seen("a", "u", "b") == []


@pytest.mark.parametrize(
    ("marks", "word"),
    [
        (["a", ""], "should have stayed"),
        (["a", BROKEN], "nobody wrote"),
        (["a", "invented"], "nobody wrote"),
        (["b", "a"], "came after"),
        (["x"], "a value of s1"),
    ],
)
def test_a_file_that_is_wrong_is_found(marks: list[str], word: str) -> None:
    assert any(word in fault for fault in seen(*marks))


def test_a_delivered_version_without_a_receipt_is_found() -> None:
    sights = [Sight(1.0, "n1", "v0", "s0", "b")]
    faults = list(file_faults(sights, VALUES, RECEIPTS[:1], {"id": "v0"}, (), None))
    assert faults == ["n1 v0/s0 at 1.00: version 2 of s0 has no receipt"]


@pytest.mark.parametrize(("marks", "right"), [(["b", "a"], True), (["b", "a", "b"], False)])
def test_a_file_goes_back_only_where_the_records_did(marks: list[str], right: bool) -> None:
    sights = [Sight(float(at), "n1", "v0", "s0", mark) for at, mark in enumerate(marks)]
    wanted = [("s0", 1), ("s0", 2), ("s0", 1)]
    names = {"id": "v0"}
    faults = list(file_faults(sights, VALUES, RECEIPTS, names, (), lambda *_place: wanted))
    assert (faults == []) is right


HELLO = {"kind": "hello", "session": 1, "at": 10.0, "highest": 5}
SNAPSHOT = {
    "kind": "snapshot",
    "session": 1,
    "at": 11.0,
    "revision": 9,
    "base": None,
    "missing": [],
    "files": [["id", "secret", 1]],
}
DELTA = {**SNAPSHOT, "kind": "delta", "base": 9, "revision": 12}
ACKNOWLEDGED = Operation(1, "c", "k", "rotate", end=4.0, outcome="ok", revision="9")


def probed(*messages: dict[str, Any], end: float = 4.0) -> list[str]:
    operations = [replace(ACKNOWLEDGED, end=end)]
    keys, first = {("secret", 1, "id"): "key"}, {"key": 8}
    return list(probe_faults(messages, operations, 5.0, keys, first))


def test_a_snapshot_and_its_delta_pass() -> None:
    assert probed(HELLO, SNAPSHOT, DELTA) == []


@pytest.mark.parametrize(
    ("messages", "word"),
    [
        ([HELLO, {**SNAPSHOT, "revision": 8}], "was acknowledged before"),
        ([{**HELLO, "highest": 11}, SNAPSHOT], "came after 11"),
        ([HELLO, SNAPSHOT, {**DELTA, "base": 8}], "builds on 8"),
        ([HELLO, {**SNAPSHOT, "missing": [["secret", 1]]}], "no value came"),
        ([HELLO, {**SNAPSHOT, "files": [["id", "secret", 2]]}], "has no receipt"),
    ],
)
def test_a_delivery_that_is_wrong_is_found(messages: list[dict[str, Any]], word: str) -> None:
    assert any(word in fault for fault in probed(*messages))


def test_a_snapshot_asked_for_again_must_be_fresh() -> None:
    again = {**HELLO, "kind": "resync", "at": 13.0}
    stale = {**SNAPSHOT, "at": 14.0}
    assert probed(HELLO, SNAPSHOT, again, stale, end=7.0) == []
    older = {**SNAPSHOT, "revision": 8, "at": 11.0}
    faults = probed(HELLO, older, again, {**stale, "revision": 8}, end=7.0)
    assert faults == ["session 1 at 14.00: revision 8, but 9 was acknowledged before"]


def test_what_is_acknowledged_after_the_hello_need_not_be_delivered() -> None:
    assert probed(HELLO, {**SNAPSHOT, "revision": 8}, end=6.0) == []


def test_a_value_sent_before_its_receipt_is_found() -> None:
    early = {**SNAPSHOT, "revision": 9}
    faults = list(probe_faults([early], [], 0, {("secret", 1, "id"): "key"}, {"key": 10}))
    assert faults == ["session 1 at 11.00: secret/1 was sent before its receipt was written"]


TOLD = {"files": [["v0", "n1", "s0", "id", 2]], "secret_names": {"id": "s0"}}
PLACES = {("n1", "v0", "s0"): "b", ("n2", "v0", "s0"): ""}


def test_agents_that_have_what_the_records_want_have_converged() -> None:
    assert differences(desired_files(TOLD), PLACES, VALUES) == []


@pytest.mark.parametrize(
    ("place", "mark", "word"),
    [
        ("n1", "a", "is wanted"),
        ("n1", "", "is missing"),
        ("n1", "x", "is wanted"),
        ("n2", "b", "should be gone"),
    ],
)
def test_what_differs_from_the_records_is_found(place: str, mark: str, word: str) -> None:
    found = PLACES | {(place, "v0", "s0"): mark}
    (wrong,) = differences(desired_files(TOLD), found, VALUES)
    assert word in wrong


def waits(node_id: str = "n1", *, acked: int = 0, dropped: int = 0, failed: int = 0) -> list[str]:
    one = ["id", 2, node_id, "v0", "key", bool(acked), bool(dropped), bool(failed)]
    nodes = {"n1": "agent-1", "n2": "agent-2"}
    told = {"nodes": nodes, "evicted": ["n2"], "secret_names": {"id": "s0"}, "receipts": [one]}
    return waiting_faults(told)


def test_a_receipt_that_waits_for_ever_is_found() -> None:
    assert waits() == ["agent-1 said nothing of version 2 of s0 for v0"]


def test_what_a_node_answered_for_or_cannot_answer_for_any_more_passes() -> None:
    assert waits(acked=1) == waits(dropped=1) == waits(failed=1) == []
    assert waits("n2") == waits("n3") == []


def test_members_that_differ_are_found() -> None:
    same = {"k": "1/x"}
    assert replica_faults({"m1": same, "m2": dict(same)}) == []
    assert replica_faults({"m1": same, "m2": {"k": "1/y"}, "m3": {}}) != []
