"""A path's distance is what it takes over what it cannot do without, in one unit."""

import pytest

from tests.bench import targets
from tests.bench.floors import PATHS, WRITE, as_table, distances, each_ms
from tests.bench.published import FLOORS_PAGE, replaced
from tests.bench.rows import Row


def test_rates_and_seconds_become_milliseconds() -> None:
    assert each_ms(Row.of("a", "1/s", [250.0])) == 4.0
    assert each_ms(Row.of("a", "s", [0.5])) == 500.0
    assert each_ms(Row.of("a", "ms", [3.0])) == 3.0


def test_distance_is_the_value_over_the_sum_of_its_floor() -> None:
    rows = [
        Row.of(targets.TO_FILE, "ms", [20.0]), Row.of(WRITE, "ms", [2.5])
    ]  # fmt: skip
    (found,) = distances(rows)
    assert found.floor_ms == 5.0
    assert found.times == pytest.approx(4.0)
    assert "| 5 | 20 | 4.0 |" in as_table([found])


def test_path_of_which_a_part_was_not_measured_has_none() -> None:
    assert distances([Row.of(targets.TO_FILE, "ms", [20.0])]) == []
    missing = [Row.missing(WRITE, "no engine"), Row.of("create, 1 caller", "1/s", [200.0])]
    assert distances(missing) == []


def test_every_path_with_a_floor_is_named_once() -> None:
    rows = [path.row for path in PATHS]
    assert len(set(rows)) == len(rows)


def test_page_has_a_place_for_them() -> None:
    assert "| one |" in replaced(FLOORS_PAGE.read_text(), "floors", "| one |")
