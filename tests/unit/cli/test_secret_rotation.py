"""`strongroom secret` with values that the manager makes, as transcripts."""

import json
from pathlib import Path

import pytest

from cluster.cli.context_files import Context
from tests.unit.cli.canned import Canned
from tests.unit.cli.conftest import Run

STARTED = {"name": "db", "operation": "o1", "step": "generate", "queued": False}


def seen(**fields: object) -> dict[str, object]:
    rotation = {
        "operation": "o1",
        "step": "retire",
        "settled": True,
        "version": 2,
        "previous": 1,
        "hook": "",
        "error": "",
        **fields,
    }
    return {"schedule": None, "rotation": rotation}


def rotating(manager: Canned, *progress: dict[str, object]) -> None:
    manager.on("POST /v1/secrets/db/rotation", (202, STARTED))
    manager.on("GET /v1/secrets/db/rotation", *((200, one) for one in progress))


def test_create_asks_for_a_value_and_sends_none(
    run: Run, manager: Canned, context: Context
) -> None:
    manager.on("POST /v1/secrets/db/generated", (201, {"name": "db", "version": 1}))
    flags = ("--generate", "hex", "--length", "64", "--label", "team=red", "--keep", "2")
    done = run("secret", "create", "db", *flags)
    assert (done.code, done.out, done.err) == (0, "secret db created, version 1\n", "")
    assert manager.only().json == {
        "generator": "hex",
        "length": 64,
        "labels": {"team": "red"},
        "terms": {"keep": 2},
    }


def test_create_with_a_schedule_sets_it(run: Run, manager: Canned, context: Context) -> None:
    manager.on("POST /v1/secrets", (201, {"name": "db", "version": 1}))
    manager.on("PUT /v1/secrets/db/schedule", (200, {"name": "db"}))
    flags = ("--generate", "password", "--rotate-every", "30d", "--hook", "party")
    done = run("secret", "create", "db", "-", *flags, stdin=b"known")
    assert done.code == 0
    assert manager.asked[1].json == {
        "every_s": 2_592_000.0,
        "hook": "party",
        "generator": "password",
    }


def test_create_with_a_hook_and_no_value_rotates_at_once(
    run: Run, manager: Canned, context: Context
) -> None:
    manager.on("POST /v1/secrets/db/generated", (201, {"name": "db", "version": 1}))
    manager.on("PUT /v1/secrets/db/schedule", (200, {"name": "db"}))
    rotating(manager, seen(hook="party"))
    done = run("secret", "create", "db", "--generate", "password", "--hook", "party")
    assert done.code == 0
    assert done.out.endswith(
        "version 2 is in place on every node that is up, and the third party confirmed it\n"
    )
    assert manager.asked[2].json == {}


def test_what_a_command_did_is_one_json_object(run: Run, manager: Canned, context: Context) -> None:
    manager.on("POST /v1/secrets/db/generated", (201, {"name": "db", "version": 1}))
    manager.on("PUT /v1/secrets/db/schedule", (200, {"name": "db", "schedule": {}}))
    rotating(manager, seen(hook="party"))
    flags = ("--generate", "hex", "--hook", "party", "--format", "json")
    done = run("secret", "create", "db", *flags)
    assert json.loads(done.out)["rotation"]["version"] == 2


def test_refused_schedule_says_what_stands(run: Run, manager: Canned, context: Context) -> None:
    manager.on("POST /v1/secrets", (201, {"name": "db", "version": 1}))
    refusal = {"code": "invalid_request", "message": "there is no hook 'x'", "retryable": False}
    manager.on("PUT /v1/secrets/db/schedule", (400, refusal))
    done = run("secret", "create", "db", "-", "--generate", "hex", "--hook", "x", stdin=b"v")
    assert done.code == 1
    assert "was created, but its schedule was refused: there is no hook 'x'" in done.err


@pytest.mark.parametrize(
    "flags",
    [
        ("--rotate-every", "1d"),
        ("--hook", "party"),
        ("--length", "64"),
        ("--generate", "dice"),
        ("--generate", "hex", "FILE"),
        ("--rotate-every", "daily", "--generate", "hex"),
    ],
)
def test_contradictions_are_told_before_anything_is_sent(
    run: Run, manager: Canned, context: Context, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    (tmp_path / "value").write_bytes(b"v")
    words = [str(tmp_path / "value") if flag == "FILE" else flag for flag in flags]
    done = run("secret", "create", "db", *words, stdin=b"v")
    assert done.code == 2
    assert manager.asked == []


def test_rotate_waits_until_the_new_version_is_in_place(
    run: Run, manager: Canned, context: Context
) -> None:
    rotating(manager, seen(step="prepare", settled=False, version=None), seen(step="done"))
    done = run("secret", "rotate", "db", "--generate")
    assert (done.code, done.out) == (0, "version 2 is in place on every node that is up\n")
    assert manager.asked[0].json == {}


def test_rotate_by_a_kind_of_its_own(run: Run, manager: Canned, context: Context) -> None:
    rotating(manager, seen(step="done"))
    done = run("secret", "rotate", "db", "--generate", "rsa", "--length", "4096")
    assert done.code == 0
    assert manager.asked[0].json == {"generator": "rsa", "length": 4096}


def test_rotate_that_queues_waits_for_the_next(run: Run, manager: Canned, context: Context) -> None:
    rotating(manager, seen(), seen(operation="o2", version=3, step="done"))
    manager.on("POST /v1/secrets/db/rotation", (202, {**STARTED, "queued": True}))
    done = run("secret", "rotate", "db", "--generate")
    assert done.out == "version 3 is in place on every node that is up\n"


def test_failed_rotation_is_told(run: Run, manager: Canned, context: Context) -> None:
    error = "prepare: the hook ended with exit status 1"
    rotating(manager, seen(step="failed", error=error))
    done = run("secret", "rotate", "db", "--generate")
    assert done.code == 1
    assert done.err == (
        f"strongroom: error: the rotation of db failed: {error}; version 1 was not replaced\n"
    )


def test_rotation_that_takes_long_goes_on(run: Run, manager: Canned, context: Context) -> None:
    error = "confirm: the hook did not end within 30 s; it was killed"
    rotating(manager, seen(step="confirm", settled=False, error=error))
    done = run("secret", "rotate", "db", "--generate", "--timeout", "0")
    assert done.code == 4
    assert "step confirm" in done.err
    assert error in done.err


@pytest.mark.parametrize("flags", [("--overlap", "10m"), ("--expires", "30d"), ("FILE",)])
def test_rotate_to_a_generated_value_takes_no_terms(
    run: Run, manager: Canned, context: Context, flags: tuple[str, ...]
) -> None:
    done = run("secret", "rotate", "db", *flags, "--generate")
    assert done.code == 2
    assert manager.asked == []


def test_detached_rotation_is_not_waited_for(run: Run, manager: Canned, context: Context) -> None:
    rotating(manager, seen())
    done = run("secret", "rotate", "db", "--generate", "--detach")
    assert (done.code, done.out) == (0, "the rotation of db goes on by itself\n")
    assert len(manager.asked) == 1


def test_give_up(run: Run, manager: Canned, context: Context) -> None:
    manager.on("DELETE /v1/secrets/db/rotation", (200, STARTED))
    done = run("secret", "rotate", "db", "--give-up")
    assert done.code == 0
    assert "is being taken back" in done.out


@pytest.mark.parametrize(
    ("flags", "request_line", "body"),
    [
        (
            ("--rotate-every", "24h", "--generate", "hex"),
            "PUT /v1/secrets/db/schedule",
            {"every_s": 86_400.0, "generator": "hex"},
        ),
        (("--no-hook",), "PUT /v1/secrets/db/schedule", {"hook": ""}),
        (("--length", "64"), "PUT /v1/secrets/db/schedule", {"length": 64}),
        (("--no-rotate-every",), "DELETE /v1/secrets/db/schedule", None),
        (("--keep", "3"), "PATCH /v1/secrets/db", {"keep": 3}),
    ],
)
def test_update_sends_what_was_said(
    run: Run,
    manager: Canned,
    context: Context,
    flags: tuple[str, ...],
    request_line: str,
    body: dict[str, object] | None,
) -> None:
    manager.on(request_line, (200, {"name": "db"}))
    done = run("secret", "update", "db", *flags)
    assert (done.code, done.out) == (0, "secret db updated\n")
    asked = manager.only()
    assert f"{asked.method} {asked.path}" == request_line
    assert body is None or asked.json == body


def test_update_of_both_sends_both(run: Run, manager: Canned, context: Context) -> None:
    for request_line in ("PUT /v1/secrets/db/schedule", "PATCH /v1/secrets/db"):
        manager.on(request_line, (200, {"name": "db"}))
    run("secret", "update", "db", "--rotate-every", "1d", "--generate", "hex", "--keep", "3")
    assert [asked.method for asked in manager.asked] == ["PUT", "PATCH"]


def test_listing_warns_of_a_rotation_that_fails(
    run: Run, manager: Canned, context: Context
) -> None:
    failing = {"failing": True, "error": "prepare: the hook ended with exit status 1"}
    row = {"name": "db", "versions": [], "rotation": failing}
    manager.on("GET /v1/secrets", (200, {"secrets": [row]}))
    done = run("secret", "ls")
    assert "its rotation met an error: prepare: the hook ended" in done.err


def test_hooks_are_listed(run: Run, manager: Canned, context: Context) -> None:
    hooks = [{"name": "party", "kind": "program", "problem": ""}]
    manager.on("GET /v1/hooks", (200, {"hooks": hooks}))
    done = run("hook", "ls")
    assert done.out.split() == ["NAME", "KIND", "PROBLEM", "party", "program", "-"]
