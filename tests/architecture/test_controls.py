"""Every threat row has a control: a test in which its attack succeeds without its mechanism."""

import ast
from pathlib import Path

import pytest

from tests.architecture.controls import Control, controls, controls_in
from tests.architecture.threat_rows import Place, Row, rows


@pytest.fixture(scope="module")
def threats(root: Path) -> dict[str, Row]:
    return {row.threat_id: row for row in rows((root / "docs" / "threat-model.md").read_text())}


@pytest.fixture(scope="module")
def marked(root: Path) -> list[Control]:
    return controls(root / "tests")


def test_every_row_has_a_control(threats: dict[str, Row], marked: list[Control]) -> None:
    """A new row needs one: @pytest.mark.control("T-NN", without="path::symbol") on a test that
    shows the attack fail, and succeed once that mechanism of the row is taken away in the test.
    """
    having = {one.threat_id for one in marked}
    assert set(threats) - having == set()
    assert having - set(threats) == set(), "controls of rows that do not exist"


def test_control_takes_away_a_mechanism_of_its_row(
    root: Path, threats: dict[str, Row], marked: list[Control]
) -> None:
    stray = [
        f"{one.test.path}::{one.test.symbol}: {one.without} is none of {one.threat_id}'s"
        for one in marked
        if one.without not in threats[one.threat_id].mechanisms or not one.without.exists(root)
    ]
    assert stray == []


def test_control_shows_both_outcomes(marked: list[Control]) -> None:
    """The attack with the mechanism, and without."""
    assert [f"{one.test.path}::{one.test.symbol}" for one in marked if one.asserts < 2] == []


def test_marks_are_read_from_tests_alone() -> None:
    module = ast.parse(
        "@pytest.mark.control('T-01', without='a/b.py::c')\n"
        "def test_a():\n    assert x\n    with pytest.raises(E): y\n"
        "@pytest.mark.control('T-02', without='a/b.py')\ndef helper(): ...\n"
    )
    (found,) = controls_in(module, "tests/x.py")
    assert found == Control("T-01", Place("a/b.py", "c"), Place("tests/x.py", "test_a"), 2)


@pytest.mark.parametrize(
    "mark", ["control('T-01')", "control('T-01', 'x')", "control(without='x')"]
)
def test_mark_without_row_or_mechanism_is_refused(mark: str) -> None:
    with pytest.raises(ValueError, match="a control reads"):
        controls_in(ast.parse(f"@pytest.mark.{mark}\ndef test_a(): ...\n"), "tests/x.py")
