"""`strongroom secret versions`, `rollback`, `update`, `prune` and the flags of terms, as
transcripts."""

import json

import pytest

from cluster.cli.context_files import Context
from tests.unit.cli.canned import Canned
from tests.unit.cli.conftest import Run

VERSION = {
    "number": 2,
    "state": "active",
    "value": "kept",
    "created_at": "2026-01-01T00:00:00.000Z",
    "created_by": "ada",
    "retire_at": "2026-01-01T00:10:00.000Z",
    "expires_at": None,
    "pinned_by": ["web"],
    "nodes": ["n1", "n2", "n3", "n4", "n5"],
}
PROGRESS = {"done": True, "reached": 2, "total": 2, "elapsed_s": 0.041, "targets": []}
SECRETS = {"secrets": [{"name": "db", "versions": []}, {"name": "key", "versions": []}]}


def test_versions(run: Run, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/secrets/db/versions", (200, {"name": "db", "versions": [VERSION]}))
    done = run("secret", "versions", "db")
    assert (done.code, done.err) == (0, "")
    heading, row = done.out.splitlines()
    headings = "VERSION STATE VALUE CREATED BY RETIRES EXPIRES PINNED BY NODES"
    assert " ".join(heading.split()) == headings
    assert row.split()[:3] == ["2", "active", "kept"]
    assert row.endswith("web        n1,n2,n3,and 2 more")
    assert json.loads(run("secret", "versions", "db", "--format", "json").out) == [VERSION]
    assert run("secret", "versions", "db", "-q").out == "2\n"


@pytest.mark.parametrize(("words", "sent"), [([], {}), (["--to", "1"], {"version": 1})])
def test_rollback_waits_for_the_nodes(
    run: Run, manager: Canned, context: Context, words: list[str], sent: dict[str, int]
) -> None:
    answer = {"name": "db", "version": 1, "from_version": 2, "rollout": "r1"}
    manager.on("POST /v1/secrets/db/rollback", (200, answer))
    manager.on("GET /v1/rollouts/r1", (200, PROGRESS))
    done = run("secret", "rollback", "db", *words)
    assert (done.code, done.err) == (0, "")
    assert done.out == "version 1, rolled back from 2, on 2 of 2 nodes in 41 ms\n"
    assert manager.asked[0].json == sent


def test_a_refused_rollback_says_why(run: Run, manager: Canned, context: Context) -> None:
    refused = {"code": "conflict", "message": "the value of version 1 is destroyed"}
    manager.on("POST /v1/secrets/db/rollback", (409, refused))
    done = run("secret", "rollback", "db")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("strongroom: error: the value of version 1 is destroyed (request ")


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (["--keep", "3", "--overlap", "10m"], {"keep": 3, "overlap_s": 600.0}),
        (["--keep", "0", "--overlap", "0s"], {"keep": 0, "overlap_s": 0.0}),
        (["--expires", "30d"], {"expires_in_s": 2_592_000.0}),
        (["--expires", "2027-01-31"], {"expires_at": "2027-01-31"}),
        (["--expires", "2027-01-31T18:00:00Z"], {"expires_at": "2027-01-31T18:00:00Z"}),
        (["--expires", "never"], {"never_expires": True}),
        ([], {}),
    ],
)
def test_update_sends_what_was_asked_for(
    run: Run, manager: Canned, context: Context, words: list[str], sent: dict[str, object]
) -> None:
    manager.on("PATCH /v1/secrets/db", (200, {"name": "db"}))
    done = run("secret", "update", "db", *words)
    assert (done.code, done.out, done.err) == (0, "secret db updated\n", "")
    assert manager.only().json == sent


@pytest.mark.parametrize("text", ["20270131", "30", "soon", "", "5x"])
def test_an_expiry_that_could_mean_two_things_is_refused(
    run: Run, context: Context, text: str
) -> None:
    assert run("secret", "update", "db", "--expires", text).code == 2


def test_a_new_version_never_expires_by_default(run: Run, context: Context) -> None:
    done = run("secret", "rotate", "db", "--expires", "never", stdin=b"x")
    assert (done.code, "default" in done.err) == (2, True)


def test_terms_go_with_the_value_of_a_rotation(run: Run, manager: Canned, context: Context) -> None:
    manager.on("POST /v1/secrets/db/versions", (200, {"name": "db", "version": 3}))
    manager.on("POST /v1/secrets", (201, {"name": "db", "version": 1}))
    run("secret", "rotate", "db", "--overlap", "10m", "--expires", "30d", "--detach", stdin=b"x")
    run("secret", "create", "db", "--keep", "2", "--expires", "2027-01-31", stdin=b"x")
    assert [one.path for one in manager.asked] == [
        "/v1/secrets/db/versions?expires_in_s=2592000.0&overlap_s=600.0",
        "/v1/secrets?name=db&expires_at=2027-01-31&keep=2",
    ]
    assert [one.body for one in manager.asked] == [b"x", b"x"]


def test_prune_says_what_is_gone(run: Run, manager: Canned, context: Context) -> None:
    manager.on("POST /v1/secrets/db/prune", (200, {"name": "db", "destroyed": [1, 2], "kept": [3]}))
    done = run("secret", "prune", "db", "--keep", "1")
    assert (done.code, done.out) == (0, "secret db: destroyed 1,2, kept 3\n")
    assert manager.only().json == {"keep": 1}


def test_prune_of_all_asks_for_each_and_passes_over_one_that_is_gone(
    run: Run, manager: Canned, context: Context
) -> None:
    manager.on("GET /v1/secrets", (200, SECRETS))
    gone = {"code": "secret_not_found", "message": "there is no secret 'db'"}
    manager.on("POST /v1/secrets/db/prune", (404, gone))
    manager.on("POST /v1/secrets/key/prune", (200, {"name": "key", "destroyed": [], "kept": [2]}))
    done = run("secret", "prune", "--all")
    assert (done.code, done.out, done.err) == (0, "nothing to destroy\n", "")
    assert [one.json for one in manager.asked[1:]] == [{}, {}]


@pytest.mark.parametrize("words", [[], ["db", "--all"]])
def test_prune_takes_names_or_all(run: Run, context: Context, words: list[str]) -> None:
    done = run("secret", "prune", *words)
    assert (done.code, "name secrets, or give --all" in done.err) == (2, True)
