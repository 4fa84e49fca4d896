"""Lists of any length, as transcripts: as many requests as there are pages, one list."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cluster.cli.context_files import Context
from tests.unit.cli.canned import Asked, Canned, Reply
from tests.unit.cli.conftest import Run

LISTS = [("secret", "secrets"), ("config", "configs"), ("node", "nodes"), ("service", "services")]
SPEC: dict[str, object] = {"references": [], "replicas": 1, "global": False}


def paging(key: str, count: int, most: int = 1_000) -> Callable[[Asked], Reply]:
    """Answer as a manager with so many entries does, `most` of which fit into an answer."""
    entries = [
        {"name": f"n{number:05}", "labels": {}, "versions": [], "used_by": [], "spec": SPEC}
        for number in range(count)
    ]

    def answer(asked: Asked) -> Reply:
        query = {name: found[0] for name, found in parse_qs(urlsplit(asked.path).query).items()}
        left = [one for one in entries if str(one["name"]) > query.get("after", "")]
        shown: list[dict[str, Any]] = left[: min(int(query["limit"]), most)]
        return 200, {key: shown, "next": shown[-1]["name"] if len(left) > len(shown) else None}

    return answer


@pytest.mark.parametrize(("noun", "key"), LISTS)
@pytest.mark.parametrize(("count", "requests"), [(0, 1), (1_000, 1), (1_001, 2)])
def test_a_list_of_any_length_is_one_list(
    run: Run, manager: Canned, context: Context, noun: str, key: str, count: int, requests: int
) -> None:
    manager.on(f"GET /v1/{key}", paging(key, count))
    expected = [f"n{number:05}" for number in range(count)]
    assert run(noun, "ls", "-q").out.splitlines() == expected
    assert len(manager.asked) == requests
    shown = json.loads(run(noun, "ls", "--format", "json").out)
    assert [one["name"] for one in shown] == expected
    lines = run(noun, "ls").out.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", *expected]


def test_a_filter_is_asked_for_with_every_page(run: Run, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/secrets", paging("secrets", 1_500))
    run("secret", "ls", "--filter", "label=team=red", "-q")
    assert [asked.path for asked in manager.asked] == [
        "/v1/secrets?label=team%3Dred&limit=1000",
        "/v1/secrets?label=team%3Dred&limit=1000&after=n00999",
    ]


def test_all_is_all(run: Run, manager: Canned, context: Context) -> None:
    """Also where a page ends before its limit."""
    manager.on("GET /v1/secrets", paging("secrets", 5, most=2))
    for number in range(5):
        answer = {"name": f"n{number:05}", "destroyed": [], "kept": []}
        manager.on(f"POST /v1/secrets/n{number:05}/prune", (200, answer))
    done = run("secret", "prune", "--all", "--format", "json")
    assert (done.code, len(json.loads(done.out))) == (0, 5)


def test_a_manager_that_knows_no_pages_tells_everything_at_once(
    run: Run, manager: Canned, context: Context
) -> None:
    """Operators are upgraded before the last manager is."""
    many = [{"name": f"n{number:05}"} for number in range(3_000)]
    manager.on("GET /v1/nodes", (200, {"nodes": many}))
    assert len(run("node", "ls", "-q").out.splitlines()) == 3_000
    assert len(manager.asked) == 1


@pytest.mark.parametrize("again", ["n1", "n0", "", 7, ["n2"]])
def test_pages_that_lead_nowhere_are_not_followed_for_ever(
    run: Run, manager: Canned, context: Context, again: object
) -> None:
    first = {"nodes": [{"name": "n1"}], "next": "n1"}
    manager.on("GET /v1/nodes", (200, first), (200, {**first, "next": again}))
    done = run("node", "ls")
    assert (done.code, done.out, len(manager.asked)) == (1, "", 2)
    assert done.err.startswith("strongroom: error: the ")
