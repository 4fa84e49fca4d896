"""What benchmarks say of themselves: targets, tables, and when an answer is complete."""

import pytest

from tests.bench import targets
from tests.bench.commands import LISTED
from tests.bench.fleets import SECRETS
from tests.bench.generator import complete
from tests.bench.published import PAGE, replaced
from tests.bench.rows import MEDIAN, Row, as_table, percentile
from tests.bench.stage import FULL


def test_a_row_says_whether_its_target_is_met() -> None:
    assert [Row.of(targets.TO_FILE, "ms", [value]).met for value in (15.0, 15.1)] == [True, False]
    assert [Row.of(targets.ISSUE, "1/s", [value]).met for value in (4_000, 3_999)] == [True, False]
    assert Row.of("something else", "ms", [1.0]).met is None
    assert "| <= 15 | no |" in as_table([Row.of(targets.TO_FILE, "ms", [16.0])])


def test_a_missed_target_says_by_how_much() -> None:
    assert "| no | missed 2 times over |" in as_table([Row.of(targets.TO_FILE, "ms", [30.0])])
    slow = Row.of(targets.ISSUE, "1/s", [1_000], note="busy")
    assert "| no | missed 4 times over; busy |" in as_table([slow])
    assert "| yes |  |" in as_table([Row.of(targets.TO_FILE, "ms", [15.0])])
    assert "missed inf times over" in as_table([Row.of(targets.ISSUE, "1/s", [0])])


def test_what_could_not_run_has_a_row_that_says_why() -> None:
    row = Row.missing("a peer", "no program")
    assert (row.n, row.met) == (0, None)
    assert "not run: no program" in as_table([row])


def test_a_percentile_is_a_sample_and_the_half_is_the_median() -> None:
    samples = [float(number) for number in range(100, 0, -1)]
    assert percentile(samples, 0.99) == 100.0
    assert percentile(samples, 0.5) == 50.5
    assert percentile([3.0, 1.0], MEDIAN) == 2.0
    assert percentile([7.0], 1.0) == 7.0


def test_targets_are_for_what_a_full_run_measures() -> None:
    sizes = {
        targets.LISTED: LISTED,
        targets.MANAGER_MEMORY: SECRETS,
        targets.FLEET_LAST: FULL.agents,
        targets.FLEET_BACK: FULL.agents,
        targets.START: FULL.growth_secrets[-1],
        targets.SECRETS_GROWTH: FULL.growth_secrets[-1],
        targets.SERVICES_GROWTH: FULL.growth_services[-1],
        targets.DELIVERY_GROWTH: FULL.growth_agents[-1],
        targets.DELIVERY_GROWTH_LATE: FULL.growth_agents[-2],
    }
    assert [name for name, size in sizes.items() if str(size) not in name] == []


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n", False),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", True),
    ],
)
def test_an_answer_is_complete_with_its_last_byte(answer: bytes, whole: bool) -> None:
    assert complete(answer) is whole


def test_a_table_is_published_between_its_marks_and_nowhere_else() -> None:
    page = PAGE.read_text()
    for section in ("own", "peers"):
        written = replaced(page, section, "| first |")
        assert replaced(written, section, "| second |") == replaced(page, section, "| second |")
        assert written.partition("<!-- begin")[0] == page.partition("<!-- begin")[0]
    with pytest.raises(ValueError, match="no section"):
        replaced(page, "nothing", "")
