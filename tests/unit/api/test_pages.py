"""Pages of lists over the API: what a page names, what it hides, what is refused."""

from typing import Any

import pytest

from cluster.protocol.errors import InvalidName
from cluster.store.records import OperatorRecord, OperatorRole
from tests.unit.api.lab import Answer, ApiLab

RED, BLUE = ("r1", "r3", "r5"), ("b1", "r2", "r4", "z9")


@pytest.fixture
async def shared(lab: ApiLab) -> ApiLab:
    """Secrets and configs of two teams, and a deployer of each."""
    for name in (*RED, *BLUE):
        team = "red" if name in RED else "blue"
        for kind in ("secrets", "configs"):
            made = await lab.ask("POST", f"/v1/{kind}?name={name}&label=team%3D{team}", b"value")
            assert made.status == 201
    for team in ("red", "blue"):
        record = OperatorRecord(
            id=f"{team}-dan", role=OperatorRole.DEPLOYER, labels={"team": team}, created_at=0.0,
            serials=("1",), not_after=9e9,
        )  # fmt: skip
        await lab.control.write(record)
    return lab


def names(answer: Answer, key: str) -> list[str]:
    assert answer.status == 200, answer.body
    return [one["name"] for one in answer.body[key]]


@pytest.mark.parametrize("kind", ["secrets", "configs"])
async def test_pages_go_through_the_list(shared: ApiLab, kind: str) -> None:
    path = f"/v1/{kind}"
    whole = await shared.ask("GET", path)
    assert names(whole, kind) == sorted((*RED, *BLUE))
    assert "next" not in whole.body
    first = await shared.ask("GET", f"{path}?limit=3")
    assert (names(first, kind), first.body["next"]) == (["b1", "r1", "r2"], "r2")
    second = await shared.ask("GET", f"{path}?limit=3&after=r2&label=team%3Dred")
    assert (names(second, kind), second.body["next"]) == (["r3", "r5"], None)
    third = await shared.ask("GET", f"{path}?limit=3&after=b1&prefix=r")
    assert (names(third, kind), third.body["next"]) == (["r1", "r2", "r3"], "r3")


async def test_services_and_nodes_come_in_pages_too(lab: ApiLab) -> None:
    for name in ("n1", "n2"):
        await lab.control.join(name)
        made = await lab.ask("POST", "/v1/services", {"name": name, "uid": 1, "references": []})
        assert made.status == 201
    for kind in ("services", "nodes"):
        first = await lab.ask("GET", f"/v1/{kind}?limit=1")
        assert (names(first, kind), first.body["next"]) == (["n1"], "n1")
        last = await lab.ask("GET", f"/v1/{kind}?limit=1&after=n1")
        assert (names(last, kind), last.body["next"]) == (["n2"], None)
        assert names(await lab.ask("GET", f"/v1/{kind}"), kind) == ["n1", "n2"]


@pytest.mark.threat("T-47")
@pytest.mark.parametrize("kind", ["secrets", "configs"])
async def test_pages_name_nothing_out_of_reach(shared: ApiLab, kind: str) -> None:
    """Neither an entry nor `next`; and going on after another team's name tells nothing of it."""
    reader = "red-dan"
    for limit in range(1, 8):
        after, found = "", list[str]()
        while True:
            query = f"limit={limit}" + (f"&after={after}" if after else "")
            answer = await shared.ask("GET", f"/v1/{kind}?{query}", as_=reader)
            found += names(answer, kind)
            assert answer.body["next"] in {None, found[-1]}
            if answer.body["next"] is None:
                break
            after = answer.body["next"]
        assert found == list(RED)
    for theirs, nobodys in (("r2", "r2x"), ("b1", "b0"), ("z9", "zzz")):
        answers: list[Any] = [
            (await shared.ask("GET", f"/v1/{kind}?limit=1&after={after}", as_=reader)).body
            for after in (theirs, nobodys)
        ]
        assert answers[0] == answers[1]
    # The control: whom it concerns sees them.
    assert names(await shared.ask("GET", f"/v1/{kind}?limit=9", as_="blue-dan"), kind) == list(BLUE)


@pytest.mark.parametrize("kind", ["secrets", "configs", "services", "nodes"])
@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "invalid_request"),
        ("limit=-1", "invalid_request"),
        ("limit=1001", "invalid_request"),
        ("limit=" + "9" * 40, "invalid_request"),
        ("limit=ten", "invalid_request"),
        ("limit=", "invalid_request"),
        ("limit=1.5", "invalid_request"),
        ("after=a", "invalid_request"),
        ("limit=1&after=.%2e", InvalidName.code),
        ("limit=1&after=%00", InvalidName.code),
        ("limit=1&after=" + "a" * 65, InvalidName.code),
        ("limit=1&after=" + "a" * 30_000, InvalidName.code),
    ],
)
async def test_what_is_no_page_is_refused(lab: ApiLab, kind: str, query: str, code: str) -> None:
    answer = await lab.ask("GET", f"/v1/{kind}?{query}")
    assert (answer.status, answer.body["code"]) == (400, code)
    assert "aaa" not in answer.body["message"]


async def test_who_may_not_list_is_not_told_what_a_page_is(shared: ApiLab) -> None:
    for query in ("limit=1", "limit=0", "limit=1&after=.."):
        assert (await shared.ask("GET", f"/v1/nodes?{query}", as_="red-dan")).status == 403
