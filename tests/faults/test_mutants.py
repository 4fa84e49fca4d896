"""The planted bugs still fit the product: one that cannot be planted proves nothing."""

import pytest

from tests.faults.mutants import MUTANTS, ROOT, Mutant
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
