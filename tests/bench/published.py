"""The tables in docs/reference/benchmarks.md and docs/explanation/performance.md: written from a
run, between two marks."""

import re
from collections.abc import Iterator, Sequence
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


def on_page(section: str) -> Iterator[tuple[str, float, str]]:
    """Yield name, value and unit of each row that is published in a section."""
    page = PAGE.read_text()
    table = page.partition(f"<!-- begin: {section} -->")[2].partition("<!-- end: ")[0]
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) > _UNIT and _NUMBER.fullmatch(cells[_VALUE]):
            yield cells[_NAME], float(cells[_VALUE]), cells[_UNIT]


_NAME, _VALUE, _UNIT = 0, 1, 4
_NUMBER: Final = re.compile(r"[0-9.]+(e[+-]?[0-9]+)?")


def replaced(page: str, section: str, table: str) -> str:
    """Return the page with another table in a section. Raises ValueError without its marks."""
    begin, end = f"<!-- begin: {section} -->", f"<!-- end: {section} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if pattern.search(page) is None:
        raise ValueError(f"the page has no section {section}")
    return pattern.sub(lambda _: f"{begin}\n\n{table}\n\n{end}", page)
