"""Tokens are shown once: alone on standard output, or in a new file for their owner alone."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.context_files import Context
from tests.unit.cli.canned import Canned
from tests.unit.cli.conftest import Run

TOKEN = "SRTKN-1-canary"
MADE: dict[str, Any] = {"id": "t1", "role": "worker", "expires_at": "then", "token": TOKEN}
CREATE = ("token", "create", "--role", "worker")
ADD = ("operator", "add", "bob", "--role", "deployer", "--label", "team=red")


@pytest.fixture(params=[CREATE, ADD], ids=["token", "operator"])
def words(request: pytest.FixtureRequest, manager: Canned) -> tuple[str, ...]:
    manager.on("POST /v1/tokens", (201, MADE))
    manager.on("POST /v1/operators", (201, {**MADE, "name": "bob"}))
    return tuple(request.param)


def test_the_token_stands_alone_on_standard_output(
    run: Run, context: Context, words: tuple[str, ...]
) -> None:
    done = run(*words)
    assert (done.code, done.out, done.err) == (0, f"{TOKEN}\n", "")
    assert run(*words, "-q").out == f"{TOKEN}\n"
    assert json.loads(run(*words, "--format", "json").out)["token"] == TOKEN


def test_the_token_goes_into_a_file_for_its_owner(
    run: Run, context: Context, words: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "token"
    done = run(*words, "--output", str(path))
    assert done.code == 0
    assert TOKEN not in done.out + done.err
    assert path.read_text() == f"{TOKEN}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("place", ["file", "link", "nowhere"])
def test_a_place_that_cannot_be_written_shows_before_a_token_is_made(
    run: Run,
    manager: Canned,
    context: Context,
    words: tuple[str, ...],
    tmp_path: Path,
    place: str,
) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    path = tmp_path / place if place != "nowhere" else tmp_path / "no" / "where"
    done = run(*words, "--output", str(path))
    assert (done.code, manager.asked) == (1, [])
    assert (tmp_path / "file").read_text() == "kept"
    assert not (tmp_path / "target").exists()


def test_no_empty_file_stays_after_a_refusal(
    run: Run, manager: Canned, context: Context, words: tuple[str, ...], tmp_path: Path
) -> None:
    refused = (403, {"code": "permission_denied", "message": "not permitted"})
    manager.on("POST /v1/tokens", refused)
    manager.on("POST /v1/operators", refused)
    assert run(*words, "--output", str(tmp_path / "token")).code == 3
    assert not (tmp_path / "token").exists()


def test_a_lost_token_says_how_to_take_it_back(
    run: Run, manager: Canned, context: Context, words: tuple[str, ...]
) -> None:
    manager.on("POST /v1/tokens", (0, None), (201, {**MADE, "token": None}))
    manager.on("POST /v1/operators", (0, None), (201, {**MADE, "token": None}))
    done = run(*words)
    assert (done.code, done.out) == (5, "")
    assert f"run `strongroom {words[0]} rm " in done.err


def test_what_is_asked_for(run: Run, manager: Canned, context: Context) -> None:
    manager.on("POST /v1/tokens", (201, MADE))
    manager.on("POST /v1/operators", (201, MADE))
    run(
        *CREATE,
        *("--ttl", "90m", "--uses", "3", "--name", "n1"),
        *("--network", "10.0.0.0/8", "--network", "10.1.0.0/16"),
    )
    assert manager.asked[0].json == {
        "role": "worker",
        "ttl_s": 5400.0,
        "uses": 3,
        "name": "n1",
        "networks": ["10.0.0.0/8", "10.1.0.0/16"],
    }
    run(*ADD)
    assert manager.asked[1].json == {"name": "bob", "role": "deployer", "labels": {"team": "red"}}


def test_lists_and_removals(run: Run, manager: Canned, context: Context) -> None:
    token = {key: value for key, value in MADE.items() if key != "token"}
    manager.on("GET /v1/tokens", (200, {"tokens": [token]}))
    manager.on("GET /v1/operators", (200, {"operators": [{"name": "bob", "enrolled": False}]}))
    manager.on("DELETE /v1/tokens/t1", (200, {"id": "t1"}))
    manager.on("DELETE /v1/operators/bob", (200, {"name": "bob"}))
    assert run("token", "ls", "-q").out == "t1\n"
    assert run("operator", "ls").out.splitlines() == [
        "NAME  ROLE  SCOPE  ENROLLED  CERTIFICATE EXPIRES",
        "bob   -     -      no        -",
    ]
    assert run("token", "rm", "t1").out == "token t1 removed\n"
    assert run("operator", "rm", "bob").out == "operator bob removed\n"


NODE = {"name": "n1", "labels": {}, "availability": "active"}


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (["drain", "n1"], {"availability": "drain"}),
        (["activate", "n1"], {"availability": "active"}),
        (
            ["update", "n1", "--label-add", "a=b", "--label-rm", "c", "--availability", "drain"],
            {"add_labels": {"a": "b"}, "remove_labels": ["c"], "availability": "drain"},
        ),
        (
            ["label", "n1", "--label-add", "a=b"],
            {"add_labels": {"a": "b"}, "remove_labels": [], "availability": None},
        ),
    ],
)
def test_nodes_are_changed(
    run: Run, manager: Canned, context: Context, words: list[str], sent: object
) -> None:
    manager.on("PATCH /v1/nodes/n1", (200, NODE))
    assert run("node", *words).code == 0
    assert manager.only().json == sent


@pytest.mark.parametrize(
    ("words", "request_line", "answer", "expected"),
    [
        (["node", "ls", "-q"], "GET /v1/nodes", {"nodes": [NODE]}, "n1\n"),
        (["manager", "ls", "-q"], "GET /v1/managers", {"managers": [{"name": "m1"}]}, "m1\n"),
        (["node", "inspect", "n1", "-q"], "GET /v1/nodes/n1", NODE, "n1\n"),
        (["node", "rm", "n1", "-q"], "DELETE /v1/nodes/n1", NODE, "n1\n"),
        (
            ["key", "rotate"],
            "POST /v1/keys/rotate",
            {"epoch": 2, "resealed": 9},
            "key epoch 2; 9 records sealed again\n",
        ),
    ],
)
def test_the_rest_of_the_cluster(
    run: Run,
    manager: Canned,
    context: Context,
    words: list[str],
    request_line: str,
    answer: object,
    expected: str,
) -> None:
    manager.on(request_line, (200, answer))
    assert run(*words).out == expected
