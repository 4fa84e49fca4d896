"""The routes on values that the cluster makes: what they take, and that no value comes out."""

import asyncio

import pytest

from tests.unit.api.lab import ApiLab
from tests.unit.control.rotation_lab import RotationLab


async def rotation(lab: ApiLab, wait_s: float = 0.0) -> dict[str, object]:
    answer = await lab.ask("GET", f"/v1/secrets/db/rotation?wait={wait_s}")
    found: dict[str, object] = answer.body["rotation"]
    return found


async def test_generated_value_never_comes_out(lab: ApiLab) -> None:
    body = {"generator": "hex", "length": 32, "labels": {"team": "red"}, "terms": {"keep": 2}}
    created = await lab.ask("POST", "/v1/secrets/db/generated", body)
    assert (created.status, created.body["version"]) == (201, 1)
    shown = await lab.ask("GET", "/v1/secrets/db")
    assert (shown.body["labels"], shown.body["keep"]) == ({"team": "red"}, 2)
    (version,) = shown.body["versions"]
    assert version["size"] == 32
    stored = lab.control.view.secret_by_name("db")
    assert stored is not None
    value = lab.store.open_value(stored.record.id, stored.record.primary.number)  # type: ignore[arg-type]  # a plain id
    assert value.reveal() not in created.content + shown.content


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/secrets/new/generated", {"generator": "dice"}),
        ("POST", "/v1/secrets/new/generated", {"generator": "hex", "value": "canary"}),
        ("POST", "/v1/secrets/new/generated", {}),
        ("POST", "/v1/secrets/-new/generated", {"generator": "hex"}),
        ("PUT", "/v1/secrets/db/schedule", {}),
        ("PUT", "/v1/secrets/db/schedule", {"generator": "hex", "every_s": "daily"}),
        ("PUT", "/v1/secrets/db/schedule", {"generator": "hex", "hook": "none"}),
        ("PUT", "/v1/secrets/db/schedule", {"generator": "hex", "hook": "../../bin/true"}),
        ("POST", "/v1/secrets/db/rotation", {}),
        ("POST", "/v1/secrets/db/rotation", {"generator": "hex", "length": 1}),
        ("POST", "/v1/secrets/db/rotation", {"generator": "hex", "hook": "other"}),
    ],
)
async def test_bad_input_is_refused_and_not_echoed(
    lab: ApiLab, method: str, path: str, body: dict[str, object]
) -> None:
    await lab.control.secret("db")
    answer = await lab.ask(method, path, body)
    assert answer.status == 400
    assert b"canary" not in answer.content
    assert lab.control.view.secret_by_name("new") is None
    assert len(lab.control.view.rotations) == 0


async def test_schedule_is_set_shown_and_taken_back(lab: ApiLab) -> None:
    await lab.control.secret("db")
    answer = await lab.ask(
        "PUT", "/v1/secrets/db/schedule", {"generator": "rsa", "length": 2048, "every_s": 3600}
    )
    assert answer.body["schedule"]["generator"] == "rsa"
    changed = await lab.ask("PUT", "/v1/secrets/db/schedule", {"every_s": 7200})
    assert changed.body["schedule"] | {"next_at": ""} == {
        "every_s": 7200,
        "generator": "rsa",
        "length": 2048,
        "hook": "",
        "next_at": "",
    }
    assert (await lab.ask("DELETE", "/v1/secrets/db/schedule")).status == 200
    assert (await lab.ask("GET", "/v1/secrets/db")).body["schedule"] is None


async def test_waiting_for_a_rotation_ends_with_it(lab: ApiLab) -> None:
    control = lab.control
    await control.secret("db")
    started = await lab.ask("POST", "/v1/secrets/db/rotation", {"generator": "hex"})
    assert (started.status, started.body["queued"]) == (202, False)
    assert (await rotation(lab, 0.05))["settled"] is False
    waiting = asyncio.create_task(rotation(lab, 30))
    duty = RotationLab(control).duty()
    for _ in range(4):
        await duty.round()
    async with asyncio.timeout(20):
        seen = await waiting
    assert (seen["operation"], seen["step"]) == (started.body["operation"], "done")
    assert (await lab.ask("GET", "/v1/secrets/db/rotation?wait=31")).status == 400


async def test_hooks_of_a_manager_without_any(lab: ApiLab) -> None:
    assert (await lab.ask("GET", "/v1/hooks")).body == {"hooks": []}
    missing = await lab.ask("DELETE", "/v1/secrets/db/rotation")
    assert missing.status == 404
