"""Pages of a list: put together they are the whole list, whatever is asked for and whoever asks."""

from collections.abc import Sequence
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from cluster.control.labels import carries
from cluster.control.pages import MAX_LIMIT, WHOLE, Page, Paging, page_of
from cluster.control.policy import Principal, Role, in_reach
from cluster.control.requests import JSON
from cluster.control.versions import first_version
from cluster.store.records import Kind, SecretRecord
from cluster.store.view import Stored, View

NAMES = st.from_regex(r"[abAB0](?:[ab._-]{0,3}[abAB0])?", fullmatch=True)
LABELS = st.dictionaries(st.sampled_from(["team", "env"]), st.sampled_from("xy"))
FILTERS = st.lists(st.sampled_from(["team", "team=x", "env=y"]), max_size=2)
READERS = st.builds(
    lambda role, labels: Principal(None, "reader", role, labels),
    st.sampled_from([Role.ADMIN, Role.DEPLOYER]),
    LABELS,
)
SECRETS = st.dictionaries(NAMES, LABELS, max_size=30)


def secret(name: str, labels: dict[str, str]) -> SecretRecord:
    return SecretRecord(
        id=f"id of {name}", name=name, labels=labels, versions=(first_version(1, 0.0, "test"),),
        next_number=2, created_at=0.0, updated_at=0.0,
    )  # fmt: skip


def view_of(secrets: dict[str, dict[str, str]]) -> View:
    view = View(str.encode)
    for name, labels in secrets.items():
        view.put(Stored(secret(name, labels), 1, 1))
    return view


def shown(stored: Stored[SecretRecord]) -> dict[str, JSON]:
    return {"name": stored.record.name}


def asked(
    view: View, reader: Principal, filters: Sequence[str], prefix: str, paging: Paging
) -> Page:
    def seen(one: SecretRecord) -> bool:
        return in_reach(reader, one.labels) and carries(one.labels, filters)

    return page_of(view.secrets, paging, prefix, seen, shown)


def names(page: Page) -> list[str]:
    return [str(entry["name"]) for entry in page.entries]


@given(SECRETS, READERS, FILTERS, st.sampled_from(["", "a", "A", "a."]), st.integers(1, 8))
def test_pages_put_together_are_the_whole_list(
    secrets: dict[str, dict[str, str]],
    reader: Principal,
    filters: list[str],
    prefix: str,
    limit: int,
) -> None:
    ask = partial(asked, view_of(secrets), reader, filters, prefix)
    whole = names(ask(WHOLE))
    expected = [
        name for name, labels in sorted(secrets.items())
        if in_reach(reader, labels) and carries(labels, filters) and name.startswith(prefix)
    ]  # fmt: skip
    assert whole == expected
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = ask(Paging(limit, after))
        assert len(page.entries) == limit or page.next is None
        found += names(page)
        assert page.next in {None, found[-1] if found else None}
        after = page.next
    assert found == whole
    assert names(ask(Paging(MAX_LIMIT))) == whole


@given(SECRETS, READERS, NAMES, st.integers(1, 8))
def test_a_name_to_go_on_after_tells_nothing_of_whether_it_is_there(
    secrets: dict[str, dict[str, str]], reader: Principal, after: str, limit: int
) -> None:
    """Whether something out of reach has that name, or nothing: the answer is the same."""
    without = {name: labels for name, labels in secrets.items() if name != after}
    hidden = {**without, after: {"hidden": "yes"}}
    pages = [
        asked(view_of(known), reader, ["team"], "", Paging(limit, after))
        for known in (without, hidden)
    ]
    assert pages[0] == pages[1]
    assert all(name > after for name in names(pages[0]))


CHANGES = st.lists(st.tuples(NAMES, st.booleans()), max_size=20)


@given(SECRETS, CHANGES, st.integers(1, 5))
def test_what_stays_is_told_once_while_others_come_and_go(
    secrets: dict[str, dict[str, str]], changes: list[tuple[str, bool]], limit: int
) -> None:
    view = view_of(secrets)
    ask = partial(asked, view, Principal(None, "reader", Role.ADMIN), (), "")
    stays = set(secrets) - {name for name, _ in changes}
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = ask(Paging(limit, after))
        found += names(page)
        after = page.next
        for name, comes in (changes.pop() for _ in range(min(len(changes), 2))):
            if comes:
                view.put(Stored(secret(name, {}), 1, 1))
            else:
                view.drop(Kind.SECRET, f"id of {name}")
    assert found == sorted(set(found))
    assert stays <= set(found)
