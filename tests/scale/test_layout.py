"""A layout follows from unit costs, and the page shows the one that follows from today's."""

from dataclasses import replace

from tests.bench.published import replaced
from tests.scale.layout import NODES, PAGE, SECRETS, SECTION, Layout, UnitCosts, table_of

NOTHING = UnitCosts(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def test_every_agent_has_a_manager_also_while_some_are_down() -> None:
    for managers in (1, 3, 5):
        layout = Layout(10_000, managers, 0)
        for down in range(layout.lost + 1):
            assert layout.sessions(down) * (managers - down) >= layout.nodes
    assert [Layout(9, managers, 0).lost for managers in (1, 3, 5)] == [0, 1, 2]


def test_each_cost_counts_where_it_arises() -> None:
    memory = replace(NOTHING, manager_kb=50_000, session_kb=100, record_kb=1)
    assert Layout(1_000, 1, 0, memory).memory_mb == 152
    assert Layout(0, 1, 1_000, memory).memory_mb == 53
    assert Layout(1_000, 1, 0, replace(memory, node_kb=7, receipt_kb=2)).memory_mb == 161
    assert Layout(3_000, 3, 0, replace(NOTHING, session_kb=100)).memory_mb == 150
    assert Layout(3_000, 3, 0, replace(NOTHING, delivery_ms=2)).everywhere_s == 2
    assert Layout(3_000, 3, 0, replace(NOTHING, first_session_ms=4)).return_s == 2
    assert Layout(3_000, 3, 0, replace(NOTHING, session_ms_each_s=1)).cores == 1
    receipts = replace(NOTHING, sealed_kb=1, receipt_kb=2)
    assert Layout(3_000, 3, 0, receipts).version_mb == (3, 6)
    assert Layout(3_000, 3, 0, NOTHING).memory_mb == 0


def test_page_shows_what_follows() -> None:
    page = PAGE.read_text()
    assert replaced(page, SECTION, table_of(NODES, SECRETS)) == page, (
        "run `python -m tests.scale.layout --publish`"
    )
