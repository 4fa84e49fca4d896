"""A layout follows from unit costs, and the page shows the one that follows from today's."""

from tests.bench.published import replaced
from tests.scale.layout import NODES, PAGE, SECRETS, SECTION, Layout, UnitCosts, table_of

NOTHING = UnitCosts(0, 0, 0, 0, 0, 0, 0, 0)


def test_every_agent_has_a_manager_also_while_some_are_down() -> None:
    for managers in (1, 3, 5):
        layout = Layout(10_000, managers, 0)
        for down in range(layout.lost + 1):
            assert layout.sessions(down) * (managers - down) >= layout.nodes
    assert [Layout(9, managers, 0).lost for managers in (1, 3, 5)] == [0, 1, 2]


def test_each_cost_counts_where_it_arises() -> None:
    assert Layout(1_000, 1, 0, UnitCosts(50_000, 100, 1, 0, 0, 0, 0, 0)).memory_mb == 154
    assert Layout(0, 1, 1_000, UnitCosts(50_000, 100, 1, 0, 0, 0, 0, 0)).memory_mb == 53
    assert Layout(3_000, 3, 0, UnitCosts(0, 100, 0, 0, 0, 0, 0, 0)).memory_mb == 150
    assert Layout(3_000, 3, 0, UnitCosts(0, 0, 0, 0, 0, 0, 0, 2)).everywhere_s == 2
    assert Layout(3_000, 3, 0, UnitCosts(0, 0, 0, 0, 0, 0, 4, 0)).return_s == 2
    assert Layout(3_000, 3, 0, UnitCosts(0, 0, 0, 0, 1, 0, 0, 0)).cores == 1
    assert Layout(3_000, 3, 0, NOTHING).memory_mb == 0


def test_page_shows_what_follows() -> None:
    page = PAGE.read_text()
    assert replaced(page, SECTION, table_of(NODES, SECRETS)) == page, (
        "run `python -m tests.scale.layout --publish`"
    )
