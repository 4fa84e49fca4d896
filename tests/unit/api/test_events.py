"""The route of events: lines, terms, and how many may be open."""

import json
from typing import Any

import pytest

from cluster.api.routes_events import STREAMS, STREAMS_PER_CALLER, Places
from cluster.protocol.errors import TooManyRequests
from tests.unit.api.lab import Answer, ApiLab


def lines(answer: Answer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.content.splitlines()]


async def test_events_come_line_by_line_and_end_with_the_revision(lab: ApiLab) -> None:
    await lab.ask("POST", "/v1/secrets?name=db", b"value-canary")
    answer = await lab.ask("GET", "/v1/events?type=secret")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    event, whole, end = lines(answer)
    assert (event["type"], event["action"], event["name"]) == ("secret", "create", "db")
    assert event["by"].endswith("/operator/ada")
    assert (set(whole), set(end)) == ({"revision"}, {"revision"})
    assert b"value-canary" not in answer.content
    later = await lab.ask("GET", f"/v1/events?since={end['revision']}")
    assert [set(line) for line in lines(later)] == [{"revision"}]


@pytest.mark.parametrize(
    "terms",
    ["since=value-canary", "type=value-canary", "action=value-canary", "follow=value-canary"],
)
async def test_terms_that_cannot_be_are_refused(lab: ApiLab, terms: str) -> None:
    answer = await lab.ask("GET", f"/v1/events?{terms}")
    assert answer.status in {400, 422}
    assert b"value-canary" not in answer.content


async def test_a_refused_request_keeps_no_place(lab: ApiLab) -> None:
    for _ in range(STREAMS_PER_CALLER + 1):
        assert (await lab.ask("GET", "/v1/events?since=1")).status == 400
    for _ in range(STREAMS_PER_CALLER + 1):
        assert (await lab.ask("GET", "/v1/events")).status == 200


def test_places_are_bounded_for_each_caller_and_for_all() -> None:
    places = Places()
    for _ in range(STREAMS_PER_CALLER):
        places.take("ada")
    with pytest.raises(TooManyRequests):
        places.take("ada")
    for number in range(STREAMS - STREAMS_PER_CALLER):
        places.take(f"other-{number}")
    with pytest.raises(TooManyRequests):
        places.take("late")
    places.free("ada")
    places.take("late")
