"""How much of a list one answer shows."""

import pytest

from cluster.control.pages import (
    MAX_LIMIT,
    PAGE_BYTES,
    WHOLE,
    WHOLE_BYTES,
    WHOLE_ENTRIES,
    Paging,
    page_of,
)
from cluster.control.requests import JSON
from cluster.protocol.errors import InvalidName, InvalidRequest
from cluster.protocol.https_client import RESPONSE_LIMIT
from cluster.store.records import NodeRecord
from cluster.store.view import Stored, View
from tests.unit.control.lab import AUDITOR, ControlLab

ENTRY: dict[str, JSON] = {"text": "x" * 1_000_000}


def nodes(count: int) -> View:
    view = View(str.encode)
    for number in range(count):
        record = NodeRecord(id=f"n{number}", name=f"n{number:05}", created_at=0.0)
        view.put(Stored(record, 1, 1))
    return view


def named(stored: Stored[NodeRecord]) -> dict[str, JSON]:
    return {"name": stored.record.name}


def large(stored: Stored[NodeRecord]) -> dict[str, JSON]:
    return {"name": stored.record.name, **ENTRY}


def every(_node: NodeRecord) -> bool:
    return True


@pytest.mark.parametrize("limit", [0, -1, MAX_LIMIT + 1, 10**15])
def test_a_limit_is_within_limits(limit: int) -> None:
    with pytest.raises(InvalidRequest, match="1 to 1,000"):
        Paging(limit).check()
    Paging(MAX_LIMIT, "a").check()


def test_going_on_is_for_pages_and_takes_a_name() -> None:
    with pytest.raises(InvalidRequest, match="`limit`"):
        Paging(None, "a").check()
    for wrong in ("a" * 65, ".a", "a/b", "\0", "a\n"):
        with pytest.raises(InvalidName):
            Paging(1, wrong).check()


def test_a_whole_list_is_whole_or_refused() -> None:
    view = nodes(WHOLE_ENTRIES)
    whole = page_of(view.nodes, WHOLE, "", every, named)
    assert (len(whole.entries), whole.answer("nodes")) == (WHOLE_ENTRIES, {"nodes": whole.entries})
    view.put(Stored(NodeRecord(id="more", name="more", created_at=0.0), 1, 1))
    with pytest.raises(InvalidRequest, match="pages"):
        page_of(view.nodes, WHOLE, "", every, named)
    # What the reader does not see does not count.
    assert page_of(view.nodes, WHOLE, "", lambda node: node.id != "more", named) == whole


def test_an_answer_stays_below_what_clients_read() -> None:
    """Entries may be as large as they like: the page ends, and the whole list is refused."""
    view = nodes(20)
    with pytest.raises(InvalidRequest, match="pages"):
        page_of(view.nodes, WHOLE, "", every, large)
    assert len(page_of(view.nodes, WHOLE, "n0000", lambda n: n.name < "n00007", large).entries) == 7
    first = page_of(view.nodes, Paging(10), "", every, large)
    assert [entry["name"] for entry in first.entries] == [f"n0000{n}" for n in range(4)]
    assert first.next == "n00003"
    assert PAGE_BYTES < WHOLE_BYTES < RESPONSE_LIMIT


def test_an_entry_larger_than_a_page_is_a_page() -> None:
    view = nodes(2)
    seen = []
    paging: Paging | None = Paging(5)
    while paging is not None:
        page = page_of(
            view.nodes, paging, "", every, lambda one: {**named(one), "text": "x" * PAGE_BYTES}
        )
        seen += [entry["name"] for entry in page.entries]
        paging = Paging(5, page.next) if page.next is not None else None
    assert seen == ["n00000", "n00001"]


async def test_a_removed_node_is_in_no_page(lab: ControlLab) -> None:
    for name in ("n1", "n2", "n3"):
        await lab.join(name)
    await lab.nodes.remove(lab.context(), "n2")
    await lab.join("n2")
    await lab.nodes.remove(lab.context(), "n3")
    first = lab.nodes.list(AUDITOR, Paging(1))
    assert ([node["name"] for node in first.entries], first.next) == (["n1"], "n1")
    last = lab.nodes.list(AUDITOR, Paging(1, "n1"))
    assert ([node["name"] for node in last.entries], last.next) == (["n2"], None)
