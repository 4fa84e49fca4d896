"""The routes on versions: what they take and what they answer."""

from typing import Any

import pytest

from tests.unit.api.lab import ApiLab

VALUE = b"\x00value-canary\xff"
AFTER = "2026-01-01T00:10:00.000Z"


async def created(lab: ApiLab, terms: str = "") -> None:
    answer = await lab.ask("POST", f"/v1/secrets?name=db{terms}", VALUE)
    assert answer.status == 201, answer.body


async def versions(lab: ApiLab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await lab.ask("GET", "/v1/secrets/db/versions")).body["versions"]
    return found


async def test_a_version_lives_by_the_terms_it_was_given(lab: ApiLab) -> None:
    await created(lab, "&keep=3&expires_at=2026-02-01")
    answer = await lab.ask("POST", "/v1/secrets/db/versions?overlap_s=600&expires_in_s=3600", VALUE)
    assert answer.status == 200
    first, second = await versions(lab)
    assert (first["state"], first["retire_at"]) == ("active", AFTER)
    assert first["expires_at"] == "2026-02-01T00:00:00.000Z"
    assert second["expires_at"] == "2026-01-01T01:00:00.000Z"
    assert (await lab.ask("GET", "/v1/secrets/db")).body["keep"] == 3


async def test_versions_go_back_and_values_never_come_out(lab: ApiLab) -> None:
    await created(lab)
    answers = [
        await lab.ask("POST", "/v1/secrets/db/versions", VALUE + b"2"),
        await lab.ask("POST", "/v1/secrets/db/rollback", {}),
        await lab.ask("POST", "/v1/secrets/db/rollback", {"version": 2}),
        await lab.ask("PATCH", "/v1/secrets/db", {"keep": 0}),
        await lab.ask("POST", "/v1/secrets/db/prune", {"keep": 0}),
        await lab.ask("GET", "/v1/secrets/db/versions"),
    ]
    assert [answer.status for answer in answers] == [200] * 6
    assert (answers[1].body["version"], answers[2].body["version"]) == (1, 2)
    assert answers[4].body["destroyed"] == [1]
    assert not any(b"value-canary" in answer.content for answer in answers)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/secrets/db/rollback", {"version": 9}, 404),
        ("POST", "/v1/secrets/db/rollback", {"version": 1}, 409),
        ("POST", "/v1/secrets/db/rollback", {"version": "value-canary"}, 400),
        ("POST", "/v1/secrets/db/rollback", {"value-canary": 1}, 400),
        ("POST", "/v1/secrets/none/rollback", {}, 404),
        ("PATCH", "/v1/secrets/db", {}, 400),
        ("PATCH", "/v1/secrets/db", {"keep": 51}, 400),
        ("PATCH", "/v1/secrets/db", {"overlap_s": -1}, 400),
        ("POST", "/v1/secrets/db/prune", {"keep": -1}, 400),
        ("POST", "/v1/secrets/db/versions?overlap_s=nan", VALUE, 400),
        ("POST", "/v1/secrets/db/versions?overlap_s=inf", VALUE, 400),
        ("POST", "/v1/secrets/db/versions?expires_at=value-canary", VALUE, 400),
        ("POST", "/v1/secrets/db/versions?overlap_s=60&expires_in_s=30", VALUE, 400),
        ("POST", "/v1/secrets?name=other&keep=51", VALUE, 400),
    ],
)
async def test_bad_input_is_refused_and_the_old_version_stays(
    lab: ApiLab, method: str, path: str, body: object, status: int
) -> None:
    await created(lab)
    answer = await lab.ask(method, path, body)
    assert answer.status == status
    assert b"value-canary" not in answer.content
    assert [one["state"] for one in await versions(lab)] == ["primary"]
