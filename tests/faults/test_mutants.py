"""The planted bugs still fit the product: one that cannot be planted proves nothing."""

from pathlib import Path

import pytest

from tests.bench.published import replaced
from tests.faults.mutant_runs import SECTION, load, table
from tests.faults.mutants import MUTANTS, ROOT, Mutant, plant
from tests.faults.nemesis import FAULTS

PAGE = ROOT / "docs/reference/reliability.md"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_bug_can_be_planted(mutant: Mutant) -> None:
    """Whoever changes these lines plants the bug anew (`make faults-mutants ARGS=NAME`)."""
    for file, old, new in mutant.edits:
        assert (ROOT / file).read_text().count(old) == 1, file
        assert old != new
    for kind in mutant.faults.split(","):
        assert any(fault.startswith(kind) for fault in FAULTS), kind


def test_every_planted_bug_is_on_the_page() -> None:
    page = PAGE.read_text()
    assert [one.name for one in MUTANTS if f"| `{one.name}` | {one.stands_for} |" not in page] == []


def test_the_page_has_what_is_recorded() -> None:
    """After results are recorded: `python -m tests.faults.mutants --record`."""
    page = PAGE.read_text()
    bugs = [(one.name, one.stands_for) for one in MUTANTS]
    assert replaced(page, SECTION, table(bugs, load())) == page
    assert set(load()) <= {one.name for one in MUTANTS}


def test_a_copy_without_a_bug_is_the_product(tmp_path: Path) -> None:
    """The control differs from a mutant by the bug alone."""
    mutant = MUTANTS[0]
    plant(None, ROOT, tmp_path / "control")
    plant(mutant, tmp_path / "control", tmp_path / "mutant")
    files = [one.relative_to(tmp_path / "control") for one in (tmp_path / "control").rglob("*.py")]
    differ = {
        str(one)
        for one in files
        if (tmp_path / "control" / one).read_bytes() != (tmp_path / "mutant" / one).read_bytes()
    }
    assert differ == {file for file, _, _ in mutant.edits}
