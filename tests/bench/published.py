"""The tables in docs/reference/benchmarks.md and docs/explanation/performance.md: written from a
run, between two marks."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.bench.rows import Row, as_table

DOCS: Final = Path(__file__).parents[2] / "docs"
PAGE: Final = DOCS / "reference" / "benchmarks.md"
FLOORS_PAGE: Final = DOCS / "explanation" / "performance.md"


def publish(section: str, rows: Sequence[Row]) -> None:
    """Replace a section's table by the one of some rows."""
    PAGE.write_text(replaced(PAGE.read_text(), section, as_table(rows)))


def publish_floors(table: str) -> None:
    """Replace the table of distances by another."""
    FLOORS_PAGE.write_text(replaced(FLOORS_PAGE.read_text(), "floors", table))


def replaced(page: str, section: str, table: str) -> str:
    """Return the page with another table in a section. Raises ValueError without its marks."""
    begin, end = f"<!-- begin: {section} -->", f"<!-- end: {section} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if pattern.search(page) is None:
        raise ValueError(f"the page has no section {section}")
    return pattern.sub(lambda _: f"{begin}\n\n{table}\n\n{end}", page)
