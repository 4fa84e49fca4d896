"""The checker finds what is planted, and passes what is right."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.checker import (
    Watched,
    linearizable,
    lost_writes,
    smallest_failing,
    watch_faults,
)
from tests.faults.history import FOREVER, Operation, Outcome
from tests.faults.models import IMPOSSIBLE, State, step


def op(
    number: int,
    action: str,
    start: float,
    end: float,
    argument: str = "",
    result: int | None = None,
    *,
    value: str = "",
    expected: int | None = None,
    error: str = "",
) -> Operation:
    outcome: Outcome = "fail" if error else "unknown" if end == FOREVER else "ok"
    return Operation(
        number, "c", "k", action, argument, expected, start, end,
        outcome, error, result, value,
    )  # fmt: skip


CREATED = op(1, "create", 0, 1, "a", 1)


def test_a_clean_chain_passes() -> None:
    chain = [CREATED, *(op(n, "rotate", n * 2, n * 2 + 1, f"v{n}", n) for n in range(2, 60))]
    assert linearizable([*chain, op(99, "read", 200, 201, result=59, value="v59")])


def test_overlapping_writes_pass_in_the_order_that_explains_them() -> None:
    both = [op(2, "rotate", 2, 9, "x", 3), op(3, "rotate", 2, 9, "y", 2)]
    assert linearizable([CREATED, *both, op(4, "issue", 10, 11, result=3, value="x")])
    assert not linearizable([CREATED, *both, op(4, "issue", 10, 11, result=3, value="y")])


def test_a_write_of_what_is_there_already_may_take_effect_later() -> None:
    again = op(2, "assign", 2, 9, "a")
    history = [op(1, "assign", 0, 1, "a"), again, op(3, "assign", 3, 4, "b")]
    assert linearizable([*history, op(4, "read", 5, 6, result=0, value="a")])


def test_a_stale_read_is_found() -> None:
    history = [CREATED, op(2, "rotate", 2, 3, "b", 2), op(3, "read", 4, 5, result=1, value="a")]
    assert not linearizable(history)
    assert linearizable([*history[:2], replace(history[2], start=2.5)])


def test_a_read_that_goes_back_is_found() -> None:
    """Two reads inside one write's interval may see new then old on no single copy."""
    write = op(2, "rotate", 2, 20, "b", 2)
    new, old = op(3, "read", 3, 4, result=2, value="b"), op(4, "read", 5, 6, result=1, value="a")
    assert not linearizable([CREATED, write, new, old])
    assert linearizable([CREATED, write, replace(old, start=1.5, end=2.5), new])


def test_a_lost_acknowledgement_is_found() -> None:
    """Acknowledged, then gone: the next write is given its number again."""
    history = [
        CREATED,
        op(2, "rotate", 2, 3, "b", 2),
        op(3, "rotate", 4, 5, "c", 2),
        op(4, "read", 6, 7, result=2, value="c"),
    ]
    assert not linearizable(history)


def test_a_lost_tail_is_named() -> None:
    lost = op(2, "rotate", 2, 3, "b", 2)
    assert lost_writes([CREATED, lost, op(3, "read", 6, 7, result=1, value="a")]) == [lost]
    assert lost_writes([CREATED, lost, op(3, "read", 6, 7, result=2, value="b")]) == []


def test_a_duplicate_is_found() -> None:
    """A resend that is applied twice takes two numbers."""
    history = [CREATED, op(2, "rotate", 2, 3, "b", 2), op(3, "read", 4, 5, result=3, value="b")]
    assert not linearizable(history)


def test_a_reordered_pair_is_found() -> None:
    history = [CREATED, op(2, "rotate", 2, 3, "b", 3), op(3, "rotate", 4, 5, "c", 2)]
    assert not linearizable(history)


def test_a_forked_compare_and_set_is_found() -> None:
    """Two writes that both won against the same number."""
    first = op(2, "update", 2, 6, "b", 2, expected=1)
    assert not linearizable([CREATED, first, op(3, "update", 3, 7, "c", 2, expected=1)])
    refused = op(3, "update", 3, 7, "c", expected=1, error="stale_version")
    assert linearizable([CREATED, first, refused])


def test_a_refusal_without_a_reason_is_found() -> None:
    refused = op(2, "update", 2, 3, "b", expected=1, error="stale_version")
    assert not linearizable([CREATED, refused])
    gone = op(2, "rotate", 2, 3, "b", error="secret_not_found")
    assert not linearizable([CREATED, gone])


def test_a_removed_key_that_is_read_is_found() -> None:
    removed = op(2, "remove", 2, 3)
    assert not linearizable([CREATED, removed, op(3, "read", 4, 5, result=1, value="a")])
    assert linearizable([CREATED, removed, op(3, "read", 4, 5, result=None)])


@pytest.mark.parametrize("seen", [1, 2])
def test_an_unknown_write_may_have_happened_or_not(seen: int) -> None:
    unknown = op(2, "rotate", 2, FOREVER, "b")
    read = op(3, "read", 4, 5, result=seen, value="ab"[seen - 1])
    assert linearizable([CREATED, unknown, read])
    assert not linearizable([CREATED, replace(unknown, start=6), op(3, "read", 4, 5, result=2)])


def test_a_rollback_restores_what_was_before() -> None:
    history = [
        CREATED,
        op(2, "update", 2, 3, "b", 2, expected=1),
        op(3, "rollback", 4, 5, result=3),
    ]
    assert linearizable([*history, op(4, "read", 6, 7, result=3, value="a")])
    assert not linearizable([*history, op(4, "read", 6, 7, result=3, value="b")])


def test_the_smallest_failing_history_is_short() -> None:
    chain = [CREATED, *(op(n, "rotate", n * 2, n * 2 + 1, f"v{n}", n) for n in range(2, 40))]
    reads = [
        op(100 + n, "read", n * 2 + 1.2, n * 2 + 1.4, result=n, value=f"v{n}") for n in range(2, 40)
    ]
    stale = op(999, "read", 41.5, 41.6, result=3, value="v3")
    found = smallest_failing([*chain, *reads, stale])
    assert [one.number for one in found if one.action == "read"] == [999]
    assert max(one.start for one in found) == stale.start


def explained(operations: Sequence[Operation]) -> bool:
    """Try every order of every choice of unknown operations."""
    known = [one for one in operations if one.outcome != "unknown"]
    unknown = [one for one in operations if one.outcome == "unknown"]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            for order in itertools.permutations([*known, *chosen]):
                if _in_time(order) and _possible(order):
                    return True
    return False


def _in_time(order: Sequence[Operation]) -> bool:
    return all(
        not later.end < earlier.start
        for index, earlier in enumerate(order)
        for later in order[index + 1 :]
    )


def _possible(order: Sequence[Operation]) -> bool:
    state: State = None
    for one in order:
        after = step(state, one)
        if after == IMPOSSIBLE:
            return False
        state = after
    return True


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    made = []
    for number in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, 8))
        end = draw(st.one_of(st.just(FOREVER), st.integers(start + 1, 10).map(float)))
        action = draw(st.sampled_from(["create", "rotate", "update", "read", "remove", "rollback"]))
        ended: list[Outcome] = ["ok", "ok", "fail"]
        outcome: Outcome = draw(st.sampled_from(ended)) if end != FOREVER else "unknown"
        codes = {"create": "already_exists", "rollback": "conflict", "update": "stale_version"}
        made.append(
            Operation(
                number, "c", "k", action, draw(st.sampled_from("ab")),
                draw(st.sampled_from([None, 1, 2])) if action == "update" else None,
                float(start), end, outcome,
                codes.get(action, "secret_not_found") if outcome == "fail" else "",
                draw(st.sampled_from([None, 1, 2, 3])) if outcome == "ok" else None,
                draw(st.sampled_from(["", "a", "b"])) if action == "read" else "",
            )
        )  # fmt: skip
    return made


@settings(max_examples=1500, deadline=None)
@given(histories())
def test_the_search_agrees_with_trying_every_order(history: list[Operation]) -> None:
    assert linearizable(history) == explained(history)


A, B = (("k1", "x"),), (("k2", "y"),)


def test_watches_that_tell_the_same_pass() -> None:
    whole = Watched("m1", [(1, A), (2, B), (5, A)])
    assert watch_faults([whole, Watched("m2", [(2, B), (5, A)])]) == []


@pytest.mark.parametrize(
    ("batches", "word"),
    [
        ([(1, A), (5, A)], "missing"),
        ([(1, A), (2, B), (2, B), (5, A)], "came after"),
        ([(2, B), (1, A), (5, A)], "came after"),
        ([(1, A), (2, A), (5, A)], "differently"),
    ],
)
def test_a_watch_that_is_wrong_is_found(
    batches: list[tuple[int, tuple[tuple[str, str], ...]]], word: str
) -> None:
    faults = watch_faults([Watched("m1", [(1, A), (2, B), (5, A)]), Watched("m2", batches)])
    assert any(word in fault for fault in faults), faults
