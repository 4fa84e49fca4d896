"""`/v1/audit` at the edge: what it takes, and that a request id leads to its entry."""

import pytest

from tests.unit.api.lab import ApiLab

REQUEST_ID = "a" * 26


async def test_request_id_of_a_write_finds_its_entry(lab: ApiLab) -> None:
    headers = {"strongroom-request-id": REQUEST_ID}
    made = await lab.ask("POST", "/v1/secrets?name=db", b"CANARY-7f3a", headers=headers)
    assert made.status == 201
    found = await lab.ask("GET", f"/v1/audit?request_id={REQUEST_ID}", as_="aud")
    (entry,) = found.body["entries"]
    assert (entry["caller"], entry["action"], entry["resource"], entry["allowed"]) == (
        "spiffe://lab.example/operator/ada",
        "secret.create",
        "secret/db",
        True,
    )
    assert found.body["next"] is None
    whole = await lab.ask("GET", "/v1/audit?order=newest&limit=2")
    assert len(whole.body["entries"]) == 2
    assert b"CANARY" not in found.content + whole.content


async def test_times_read_iso_8601(lab: ApiLab) -> None:
    await lab.ask("POST", "/v1/secrets?name=db", b"v")
    for since, expected in (("2025-12-31T23:00:00Z", 1), ("2026-01-02T00:00:00", 0)):
        found = await lab.ask("GET", f"/v1/audit?since={since}&action=secret")
        assert len(found.body["entries"]) == expected, since


@pytest.mark.parametrize(
    "query", ["since=yesterday", "cursor=-1", "limit=0", "limit=100000", "order=x", "caller=%0a"]
)
async def test_what_is_no_question_is_refused(lab: ApiLab, query: str) -> None:
    answer = await lab.ask("GET", f"/v1/audit?{query}")
    assert (answer.status, answer.body["code"]) == (400, "invalid_request")


async def test_verdict_is_answered(lab: ApiLab) -> None:
    answer = await lab.ask("GET", "/v1/audit/verification", as_="aud")
    assert answer.status == 200
    assert answer.body["whole"] is True
