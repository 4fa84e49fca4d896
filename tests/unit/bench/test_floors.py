"""A path's distance is what it takes over what it cannot do without, in one unit."""

import math

import pytest

from tests.bench import targets
from tests.bench.floors import PATHS, WRITE, as_table, distances, measured, milliseconds
from tests.bench.published import FLOORS_PAGE, on_page, replaced
from tests.bench.rows import Row


def test_rates_and_seconds_become_milliseconds() -> None:
    assert milliseconds(250, "1/s") == 4
    assert milliseconds(0.5, "s") == 500
    assert milliseconds(3, "ms") == 3
    assert math.isnan(milliseconds(3, "MB"))


def test_distance_is_the_value_over_the_sum_of_its_floor() -> None:
    rows = [Row.of(targets.TO_FILE, "ms", [20.0]), Row.of(WRITE, "1/s", [400.0])]
    (found,) = distances(measured(rows))
    assert found.floor_ms == 5.0
    assert found.times == pytest.approx(4.0)
    assert "| 5 | 20 | 4.0 |" in as_table([found])


def test_path_of_which_a_part_was_not_measured_has_none() -> None:
    assert distances(measured([Row.of(targets.TO_FILE, "ms", [20.0])])) == []
    missing = [Row.missing(WRITE, "no engine"), Row.of(targets.TO_FILE, "ms", [20.0])]
    assert distances(measured(missing)) == []


def test_every_path_with_a_floor_is_named_once() -> None:
    rows = [path.row for path in PATHS]
    assert len(set(rows)) == len(rows)


def test_distances_on_the_page_are_those_of_the_published_rows() -> None:
    page = FLOORS_PAGE.read_text()
    found = distances(on_page("own"))
    assert found
    assert replaced(page, "floors", as_table(found)) == page, (
        "run `python -m tests.bench.floors` after a table was published"
    )
