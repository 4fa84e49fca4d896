"""The page's tables are the recorded runs, and nothing else."""

import json
from pathlib import Path

import pytest

from tests.bench.published import replaced
from tests.faults import counts
from tests.faults.counts import PAGE, SECTION, Summary, record, recorded, tables
from tests.faults.nemesis import FAULTS


def test_the_page_has_the_recorded_runs() -> None:
    """After a run is recorded: `python -m tests.faults.counts`."""
    page = PAGE.read_text()
    assert replaced(page, SECTION, tables(recorded())) == page


def test_every_recorded_fault_is_one_of_the_page() -> None:
    page = PAGE.read_text()
    kinds = {kind for run in recorded() for kind in run["faults"]}
    assert kinds <= set(FAULTS)
    assert {kind for kind in FAULTS if f"`{kind}`" not in page} == set()


def test_columns_are_added_up() -> None:
    runs: list[Summary] = [
        {"command": "one", "faults": {"kill-one": 2}, "operations": 1000},
        {"commands": ["two", "three"], "faults": {"kill-one": 1, "partition": 4}},
    ]
    said = tables(runs)
    assert "| `kill-one` | 2 | 1 | 3 |" in said
    assert "| `partition` | 0 | 4 | 4 |" in said
    assert "| **faults** | 2 | 5 | 7 |" in said
    assert "| operations judged | 1,000 |  | 1,000 |" in said
    assert [line.strip() for line in said.splitlines() if line.startswith("      ")] == [
        "one",
        "two",
        "three",
    ]


def test_a_fault_that_no_run_injected_shows() -> None:
    """Nor does one go that a run injected under a name that it has no more."""
    said = tables([{"command": "one", "faults": {"kill-one": 2, "renamed": 1}}])
    for kind in FAULTS:
        assert f"| `{kind}` | {2 if kind == 'kill-one' else 0} |" in said
    assert "| `renamed` | 1 | 1 |" in said


def test_a_run_that_found_something_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "RECORDED", tmp_path / "runs")
    summary = {"began": "20260101T000000", "command": "c", "faults": {}, "violations": 0}
    (tmp_path / "good.json").write_text(json.dumps(summary))
    (tmp_path / "bad.json").write_text(json.dumps(summary | {"violations": 1}))
    record(tmp_path / "good.json")
    assert recorded() == [summary]
    with pytest.raises(ValueError, match="violations"):
        record(tmp_path / "bad.json")
