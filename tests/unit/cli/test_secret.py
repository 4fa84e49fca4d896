"""`strongroom secret`, as transcripts."""

import json
from pathlib import Path

import pytest

from cluster.cli.context_files import Context
from tests.unit.cli.canned import Canned
from tests.unit.cli.conftest import Run

VALUE = b"\x00canary-4711\xff\n\r\x00"
SECRETS = {
    "secrets": [
        {
            "id": "a" * 26,
            "name": "db-password",
            "labels": {"team": "red"},
            "versions": [
                {"number": 1, "state": "active", "size": 9},
                {"number": 2, "state": "primary", "size": 17},
            ],
            "updated_at": "2026-01-01T00:00:00.000Z",
            "used_by": ["web", "worker"],
        },
        {"id": "b" * 26, "name": "key", "labels": {}, "versions": [], "used_by": []},
    ]
}
PROGRESS = {"done": True, "reached": 12, "total": 12, "elapsed_s": 0.041, "targets": []}


def rotated(manager: Canned, *progress: dict[str, object]) -> None:
    manager.on("POST /v1/secrets/db/versions", (201, {"name": "db", "version": 3, "rollout": "r1"}))
    manager.on("GET /v1/rollouts/r1", *((200, one) for one in progress))


@pytest.mark.parametrize("source", ["file", "-", "stdin"])
def test_create_sends_the_value_as_it_is(
    run: Run, manager: Canned, context: Context, tmp_path: Path, source: str
) -> None:
    manager.on("POST /v1/secrets", (201, {"id": "x", "name": "db", "version": 1}))
    (tmp_path / "value").write_bytes(VALUE)
    words = {"file": [str(tmp_path / "value")], "-": ["-"], "stdin": []}[source]
    stdin = b"" if source == "file" else VALUE
    done = run("secret", "create", "db", *words, "--label", "team=red", stdin=stdin)
    assert (done.code, done.out, done.err) == (0, "secret db created, version 1\n", "")
    asked = manager.only()
    assert asked.body == VALUE
    assert asked.path == "/v1/secrets?name=db&label=team%3Dred"
    assert asked.headers["content-type"] == "application/octet-stream"
    assert len(asked.headers["strongroom-request-id"]) == 26


@pytest.mark.parametrize(("size", "code"), [(0, 1), (1, 0), (511_999, 0), (512_000, 1)])
def test_sizes_at_the_limits(
    run: Run, manager: Canned, context: Context, size: int, code: int
) -> None:
    manager.on("POST /v1/secrets", (201, {"id": "x", "name": "db", "version": 1}))
    done = run("secret", "create", "db", stdin=bytes(size))
    assert done.code == code
    assert len(manager.asked) == (code == 0)


def test_a_value_typed_where_a_file_belongs_is_not_repeated(run: Run, context: Context) -> None:
    done = run("secret", "create", "db", "canary-4711")
    assert done.code == 1
    assert "canary" not in done.out + done.err
    assert "cannot be read" in done.err
    done = run("secret", "create", "db", "file", "canary-4711")
    assert (done.code, "canary" in done.err) == (2, False)
    done = run("secret", "create", "db", "--value=canary-4711")
    assert (done.code, "canary" in done.err) == (2, False)


def test_a_refusal_is_one_line_with_the_managers_words(
    run: Run, manager: Canned, context: Context
) -> None:
    manager.on(
        "POST /v1/secrets", (409, {"code": "already_exists", "message": "the name db is taken"})
    )
    done = run("secret", "create", "db", stdin=VALUE)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("strongroom: error: the name db is taken (request ")
    assert done.err.count("\n") == 1


def test_ls(run: Run, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/secrets", (200, SECRETS))
    done = run("secret", "ls", "--filter", "label=team=red")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "NAME         VERSION  SIZE  USED BY     LABELS    EXPIRES  UPDATED",
        "db-password  2        17    web,worker  team=red  -        2026-01-01T00:00:00.000Z",
        "key          -        -     -           -         -        -",
    ]
    assert manager.only().path == "/v1/secrets?label=team%3Dred&limit=1000"
    assert "strongroom-request-id" in manager.only().headers


def test_ls_names_only_and_json(run: Run, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/secrets", (200, SECRETS))
    assert run("secret", "ls", "-q").out == "db-password\nkey\n"
    assert json.loads(run("secret", "ls", "--format", "json").out) == SECRETS["secrets"]


def test_inspect(run: Run, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/secrets/db", (200, SECRETS["secrets"][0]))
    lines = run("secret", "inspect", "db").out.splitlines()
    assert lines[1:6] == [
        "name: db-password",
        "labels: team=red",
        "versions:",
        "  NUMBER  STATE    SIZE",
        "  1       active   9",
    ]


def test_rotate_waits_and_says_how_far_it_came(run: Run, manager: Canned, context: Context) -> None:
    rotated(manager, {**PROGRESS, "done": False, "reached": 3}, PROGRESS)
    done = run("secret", "rotate", "db", stdin=VALUE)
    assert (done.code, done.out, done.err) == (0, "version 3 on 12 of 12 nodes in 41 ms\n", "")
    assert manager.asked[0].body == VALUE
    assert [one.path.partition("=")[0] for one in manager.asked[1:]] == [
        "/v1/rollouts/r1?wait",
        "/v1/rollouts/r1?wait",
    ]


def test_rotate_names_the_missing_nodes_when_the_time_runs_out(
    run: Run, manager: Canned, context: Context
) -> None:
    targets = [
        {"node": "n1", "service": "web", "state": "done", "error": ""},
        {"node": "n2", "service": "web", "state": "pending", "error": ""},
        {"node": "n3", "service": "web", "state": "failed", "error": "no space\x1b[2J"},
    ]
    rotated(manager, {"done": False, "reached": 1, "total": 3, "targets": targets})
    done = run("secret", "rotate", "db", "--timeout", "50ms", stdin=VALUE)
    assert (done.code, done.out) == (4, "")
    assert done.err == (
        "strongroom: error: version 3 on 1 of 3 nodes after 0.05 s; missing: n2 (service web), "
        "n3 (service web): no space\\x1b[2J; the change stays and goes on, "
        "see `strongroom service ps` and `strongroom node ls`\n"
    )


def test_rotate_that_nothing_uses_says_so(run: Run, manager: Canned, context: Context) -> None:
    rotated(manager, {"done": True, "reached": 0, "total": 0, "targets": [], "elapsed_s": 0.0})
    done = run("secret", "rotate", "db", stdin=VALUE)
    assert (done.code, done.out) == (0, "version 3 is stored; no running task uses it yet\n")


def test_a_superseded_rotation_fails(run: Run, manager: Canned, context: Context) -> None:
    rotated(manager, {**PROGRESS, "reached": 2, "superseded_by": "r2"})
    done = run("secret", "rotate", "db", stdin=VALUE)
    assert (done.code, "superseded" in done.err) == (1, True)


def test_detach_does_not_wait(run: Run, manager: Canned, context: Context) -> None:
    rotated(manager, PROGRESS)
    done = run("secret", "rotate", "db", "--detach", stdin=VALUE)
    assert (done.code, done.out) == (0, "version 3 is stored; not waiting for nodes\n")
    assert len(manager.asked) == 1


def test_json_holds_the_progress(run: Run, manager: Canned, context: Context) -> None:
    rotated(manager, PROGRESS)
    done = run("secret", "rotate", "db", "--format", "json", stdin=VALUE)
    assert json.loads(done.out) == {
        "name": "db",
        "version": 3,
        "rollout": "r1",
        "progress": PROGRESS,
    }


def test_label_and_rm(run: Run, manager: Canned, context: Context) -> None:
    manager.on("PATCH /v1/secrets/db/labels", (200, {"name": "db", "labels": {}}))
    manager.on("DELETE /v1/secrets/db", (200, {"name": "db"}))
    in_use = {"code": "secret_in_use", "message": "web refers to it"}
    manager.on("DELETE /v1/secrets/other", (409, in_use))
    assert run("secret", "label", "db", "--add", "a=b", "--remove", "c").code == 0
    assert manager.asked[0].json == {"add": {"a": "b"}, "remove": ["c"]}
    done = run("secret", "rm", "db", "other")
    assert (done.code, done.out) == (1, "secret db removed\n")
    assert done.err.startswith("strongroom: error: web refers to it (request ")
    assert done.err.count("\n") == 1


def test_a_name_cannot_reach_another_route(run: Run, manager: Canned, context: Context) -> None:
    assert run("secret", "inspect", "../services/web").code == 1
    assert manager.only().path == "/v1/secrets/..%2Fservices%2Fweb"
