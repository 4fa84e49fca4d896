"""What counts as found: planted results, with and without a control that passes."""

import json
from pathlib import Path

import pytest

from tests.faults import mutant_runs
from tests.faults.mutant_runs import (
    Control,
    Run,
    RunOptions,
    Trials,
    Weight,
    load,
    record,
    table,
    weight,
)

FIRST, SECOND = (RunOptions(seed, 0.75, "kill-one") for seed in (1, 2))
PASSES = Run(0)
RESTLESS = Run(1, ("it does not come to rest: m3 serves",))
PROMISE = Run(1, ("it does not come to rest: m3 serves", "secret:s0 is not linearizable; so:"))
BROKEN = Run(
    1,
    ("the observer broke: ValueError: no", "node:n1: the search took too long; nothing is proven"),
)


class Planned:
    """Runs that end as they were told to, and are counted."""

    def __init__(self, ends: dict[tuple[str, RunOptions], Run]) -> None:
        self.ends = ends
        self.runs: list[tuple[str, RunOptions]] = []

    def __call__(self, name: str, options: RunOptions) -> Run:
        self.runs.append((name, options))
        return self.ends[name, options]


@pytest.mark.parametrize(
    ("bug", "control", "found"),
    [
        (PROMISE, PASSES, True),
        (PROMISE, RESTLESS, True),
        (PROMISE, PROMISE, False),
        (PROMISE, BROKEN, False),
        (PROMISE, Run(2), False),
        (RESTLESS, PASSES, True),
        (RESTLESS, RESTLESS, False),
        (RESTLESS, PROMISE, False),
        (BROKEN, PASSES, False),
        (Run(1), PASSES, False),
        (PASSES, PASSES, False),
    ],
)
def test_a_bug_counts_beside_a_control_that_has_it_not(bug: Run, control: Run, found: bool) -> None:
    planned = Planned({("bug", FIRST): bug, ("", FIRST): control})
    result = Trials(planned, "c0ffee1").result("bug", [FIRST])
    assert result.found is found
    assert ("found" in result.told()) is found
    assert result.kept()["found"] is found


def test_what_names_a_promise_is_told_first() -> None:
    planned = Planned({("bug", FIRST): PROMISE, ("", FIRST): PASSES})
    result = Trials(planned, "c0ffee1").result("bug", [FIRST])
    assert result.violation == "secret:s0 is not linearizable; so:"
    assert result.violations == 2
    assert result.weight is Weight.PROMISE
    assert result.control is Control.PASSED
    assert result.options == "--seed 1 --minutes 0.75 --only kill-one"
    assert "control passed" in result.told()


def test_a_second_seed_is_tried_until_one_counts() -> None:
    ends = {("bug", FIRST): RESTLESS, ("", FIRST): RESTLESS}
    ends |= {("bug", SECOND): RESTLESS, ("", SECOND): PASSES}
    result = Trials(Planned(ends), "c0ffee1").result("bug", [FIRST, SECOND])
    assert result.found
    assert "--seed 2" in result.options


def test_a_control_runs_once_for_its_options_and_only_where_it_is_asked_for() -> None:
    names = ("one", "two", "three")
    ends = {(name, FIRST): PROMISE for name in names} | {
        ("", FIRST): PASSES,
        ("none", FIRST): PASSES,
    }
    planned = Planned(ends)
    trials = Trials(planned, "c0ffee1")
    assert not trials.result("none", [FIRST]).found
    assert ("", FIRST) not in planned.runs
    assert all(trials.result(name, [FIRST]).found for name in names)
    assert planned.runs.count(("", FIRST)) == 1


def test_a_run_is_read_from_what_it_prints() -> None:
    printed = "built\n\nVIOLATION a is not linearizable; so:\n  read 1\n\nVIOLATION b's store: no\n"
    assert Run.of(1, printed).violations == ("a is not linearizable; so:", "b's store: no")
    assert weight("m1 is not ready: it waits") is Weight.UNREST
    assert weight("not converged: n1 lacks a file") is Weight.UNREST


def test_only_what_was_found_by_a_commit_beside_a_control_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "mutants.json"
    kept.write_text(json.dumps({"old": {"violation": "before", "options": "--seed 2"}}))
    monkeypatch.setattr(mutant_runs, "RECORDED", kept)
    good = Trials(Planned({("bug", FIRST): PROMISE, ("", FIRST): PASSES}), "c0ffee1")
    result = good.result("bug", [FIRST]).kept()
    for refused in (
        {"found": False},
        {"control": Control.UNREST.value},
        {"control": None},
        {"commit": "c0ffee1 with changes"},
    ):
        (tmp_path / "bad.json").write_text(json.dumps({"bug": result | refused}))
        with pytest.raises(ValueError, match="bug was"):
            record(tmp_path / "bad.json")
        assert set(load()) == {"old"}
    (tmp_path / "good.json").write_text(json.dumps({"bug": result}))
    record(tmp_path / "good.json")
    assert set(load()) == {"old", "bug"}
    said = table([("old", "a"), ("bug", "b"), ("new", "c")], load())
    assert "| `old` | a | before (seed 2) | earlier, without a control |" in said
    assert "| secret:s0 is not linearizable; so: (seed 1) | `c0ffee1`, control passed |" in said
    assert "| `new` | c | not found yet |  |" in said
