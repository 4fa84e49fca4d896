"""Every threat row names a mechanism that exists and has a test; every attack names its row."""

import ast
from pathlib import Path

import pytest

from tests.architecture.threat_rows import Place, Row, marks, marks_in, rows


@pytest.fixture(scope="module")
def threats(root: Path) -> list[Row]:
    """Return the rows of the threat model."""
    return rows((root / "docs" / "threat-model.md").read_text())


def test_rows_are_numbered_once_and_in_order(threats: list[Row]) -> None:
    ids = [row.threat_id for row in threats]
    assert ids, "docs/threat-model.md has no rows"
    assert ids == sorted(set(ids), key=lambda threat_id: int(threat_id[2:]))


def test_every_row_names_an_existing_mechanism(root: Path, threats: list[Row]) -> None:
    without = [row.threat_id for row in threats if not row.mechanisms]
    assert without == [], "name the file of the mechanism in backquotes"
    missing = [
        f"{row.threat_id}: {place}"
        for row in threats
        for place in row.places
        if not place.exists(root)
    ]
    assert missing == []


def test_every_row_has_a_test_and_every_attack_a_row(root: Path, threats: list[Row]) -> None:
    marked = marks(root / "tests")
    ids = {row.threat_id for row in threats}
    assert ids - set(marked) == set(), "rows that no test is marked with"
    assert set(marked) - ids == set(), "tests marked with a row that does not exist"


def test_row_is_read_with_its_places() -> None:
    mechanism = "`cluster/pki/tls.py::server_context`, `agent/main.py`"
    (row,) = rows(f"| id | claim |\n|---|---|\n| T-07 | claim | {mechanism} | `tests/x/y.py` |\n")
    assert row.threat_id == "T-07"
    assert row.mechanisms == (
        Place("cluster/pki/tls.py", "server_context"),
        Place("agent/main.py", None),
    )


def test_missing_file_and_missing_symbol_are_seen(root: Path) -> None:
    assert Place("cluster/system.py", "SystemClock").exists(root)
    assert not Place("cluster/system.py", "NoSuchClock").exists(root)
    assert not Place("cluster/nowhere.py", None).exists(root)


def test_marks_are_found_on_tests_modules_and_parameters() -> None:
    module = ast.parse(
        "pytestmark = pytest.mark.threat('T-01')\n"
        "@pytest.mark.threat('T-02')\ndef test_a(): ...\n"
        "cases = [pytest.param(1, marks=pytest.mark.threat('T-03'))]\n"
    )
    assert marks_in(module) == {"T-01", "T-02", "T-03"}
