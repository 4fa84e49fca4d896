"""The judgement of a run can fail, and fails for what it should."""

from dataclasses import replace
from itertools import pairwise

import pytest

from tests.scale.findings import (
    Rotated,
    Sample,
    behind_s,
    file_faults,
    late_faults,
    memory_faults,
)
from tests.scale.options import parse

STEADY = Sample(0.0, 100_000, 200_000, 50, 500, 1.0, 1.0, 0.0, 0.0, 1.0)


def samples(*manager_kb: int, every_s: float = 60.0) -> list[Sample]:
    return [
        replace(STEADY, at_s=number * every_s, manager_kb=size)
        for number, size in enumerate(manager_kb)
    ]


def test_memory_that_grows_only_at_first_is_flat() -> None:
    assert memory_faults(samples(50_000, 80_000, 99_000, *[100_000] * 6), []) == []


def test_memory_that_goes_on_growing_is_a_fault() -> None:
    (fault,) = memory_faults(samples(*range(100_000, 190_000, 10_000)), [])
    assert "the manager's memory grew" in fault


def test_receipts_are_kept_and_nothing_else_may_grow() -> None:
    taken = samples(*range(100_000, 190_000, 10_000))
    between = [(one.at_s + two.at_s) / 2 for one, two in pairwise(taken)]
    explained = [Rotated(at_s, "db", 1, 5_000, 1.0, 1.0, 0.1, 0.1) for at_s in between]
    assert memory_faults(taken, explained) == []
    assert memory_faults(taken, [replace(one, agents=1_000) for one in explained])


def test_the_simulator_is_judged_too() -> None:
    grown = [
        replace(sample, simulator_kb=200_000 + number * 20_000)
        for number, sample in enumerate(samples(*[100_000] * 9))
    ]
    (fault,) = memory_faults(grown, [])
    assert "the simulator's memory grew" in fault


def test_a_short_run_says_nothing_of_memory() -> None:
    assert memory_faults(samples(*range(100_000, 190_000, 10_000), every_s=5.0), []) == []


def test_a_rotation_that_leaves_agents_behind_is_named() -> None:
    late = Rotated(1.0, "db", 3, 12, 4.0, 30.0, 0.1, 6.0)
    (fault,) = late_faults([replace(late, behind_s=4.9), late], 5.0)
    assert "db 3" in fault
    assert "6.00 s" in fault


def test_behind_counts_from_the_release_to_the_node_and_never_from_before_the_request() -> None:
    acked = {"first": 12.0, "second": 19.0}
    assert behind_s(acked, {"first": 9.5, "second": 16.0}, 9.0) == 3.0
    assert behind_s(acked, {"first": 2.0, "second": 16.0}, 9.0) == 3.0
    assert behind_s(acked, {"first": 9.5, "second": None}, 9.0) == 10.0
    assert behind_s(acked, {"first": 11.0, "second": 11.0}, 9.0) == 10.0
    assert behind_s(acked, {}, 9.0) == 10.0
    assert behind_s({}, {}, 9.0) == 0.0


@pytest.mark.parametrize(
    ("found", "word"),
    [
        ({}, "lacks"),
        ({("a", "web"): {"db": b"old"}}, "other bytes"),
        ({("a", "web"): {"db": b"new", "more": b""}}, "keeps more"),
        ({("a", "web"): {"db": b"new"}, ("b", "web"): {"db": b"new"}}, "b keeps"),
    ],
)
def test_files_that_are_not_what_the_records_want_are_named(
    found: dict[tuple[str, str], dict[str, bytes]], word: str
) -> None:
    (fault,) = file_faults({("a", "web"): {"db": b"new"}}, found)
    assert word in fault
    assert "new'" not in fault


def test_files_that_are_right_are_no_fault_and_many_faults_are_counted() -> None:
    wanted = {(f"a{n}", "web"): {"db": b"new"} for n in range(20)}
    assert file_faults(wanted, wanted) == []
    assert file_faults(wanted, {})[-1] == "and 15 more like it"


def test_a_replay_repeats_every_option() -> None:
    words = "--agents 7 --secrets 9 --services 2 --minutes 1.5 --engine etcd --seed 4 --behind 9"
    options = parse(words.split())
    assert parse(options.replay().split()[3:]) == options
    assert parse([]).seed != 0
