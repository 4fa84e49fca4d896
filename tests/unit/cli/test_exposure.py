"""`secret where`, `node exposure`, `node evict`, as transcripts."""

import json
from typing import Any

import pytest

from cluster.cli import exposure
from cluster.cli.context_files import Context
from tests.unit.cli.canned import Canned
from tests.unit.cli.conftest import Run

ROW = {
    "secret": "db",
    "secret_id": "s" * 26,
    "version": 2,
    "version_state": "primary",
    "live": True,
    "node": "n1",
    "node_id": "n" * 26,
    "node_state": "ready",
    "service": "web",
    "service_gone": False,
    "since": "2026-01-01T00:00:00.000Z",
    "issued_at": "2026-01-01T00:00:00.000Z",
    "acked_at": "2026-01-01T00:00:01.000Z",
    "dropped_at": None,
    "held": True,
}
WHERE: dict[str, Any] = {
    "id": "s" * 26,
    "name": "db",
    "removed": False,
    "must_rotate": "",
    "versions": [],
    "receipts": [ROW, {**ROW, "version": 1, "version_state": "retired", "node": "n2"}],
    "left_out": 0,
}
EXPOSURE: dict[str, Any] = {
    "id": "n" * 26,
    "name": "n1",
    "state": "evicted",
    "evicted_at": "2026-01-02T00:00:00.000Z",
    "versions": 1,
    "live": 1,
    "held": 0,
    "same_name": [],
    "receipts": [ROW],
}
EVICTED: dict[str, Any] = {
    "id": "n" * 26,
    "name": "n1",
    "state": "evicted",
    "operation": "o" * 26,
    "held": 1,
    "rotating": 0,
    "must_rotate": 1,
    "settled": 0,
    "secrets": [{"secret": "db", "versions": [2], "outcome": "must be rotated", "detail": "do it"}],
}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposure, "WIPE_S", 0.0)


def test_where_prints_a_row_for_each_node(run: Run, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/secrets/db/where", (200, WHERE))
    done = run("secret", "where", "db")
    assert (done.code, done.err) == (0, "")
    heading, first, second = done.out.splitlines()
    assert heading.split("  ")[0] == "VERSION"
    assert first.split()[:5] == ["2", "primary", "n1", "ready", "web"]
    assert second.split()[:3] == ["1", "retired", "n2"]
    assert run("secret", "where", "db", "-q").out == "n1\nn2\n"
    assert json.loads(run("secret", "where", "db", "--format", "json").out) == WHERE


def test_where_asks_for_one_version(run: Run, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/secrets/db/where", (200, {**WHERE, "receipts": []}))
    done = run("secret", "where", "db", "--version", "2")
    assert manager.only().path == "/v1/secrets/db/where?version=2"
    assert done.err == "strongroom: no node was ever issued secret db\n"
    assert run("secret", "where", "db", "--version", "0").code == 2


def test_where_says_what_the_table_does_not(run: Run, manager: Canned, context: Context) -> None:
    more = {"removed": True, "left_out": 7, "must_rotate": "must be rotated: node n1 was evicted"}
    manager.on("GET /v1/secrets/db/where", (200, {**WHERE, **more}))
    err = run("secret", "where", "db").err
    assert "7 older rows are left out; ask for one --version" in err
    assert "secret db was removed" in err
    assert "secret db must be rotated: node n1 was evicted" in err


def test_exposure_of_a_node(run: Run, manager: Canned, context: Context) -> None:
    same = {**EXPOSURE, "same_name": ["m" * 26]}
    manager.on("GET /v1/nodes/n1/exposure", (200, same))
    done = run("node", "exposure", "n1")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[:5] == [
        f"node         n1 ({'n' * 26})",
        "state        evicted, 2026-01-02T00:00:00.000Z",
        "received     1 version, 1 in use",
        "still holds  0 by its own report",
        f"same name    {'m' * 26}",
    ]
    assert done.out.splitlines()[-1].split()[:4] == ["db", "2", "primary", "yes"]


def test_evict_tells_of_the_wipe_and_what_stays(
    run: Run, manager: Canned, context: Context
) -> None:
    quiet = {**EVICTED, "secrets": [], "must_rotate": 0}
    manager.on("POST /v1/nodes/n1/evict", (200, quiet))
    manager.on(
        f"GET /v1/nodes/{'n' * 26}/exposure", (200, EXPOSURE), (200, {**EXPOSURE, "held": 2})
    )
    done = run("node", "evict", "n1")
    assert done.code == 0
    assert done.out.splitlines() == [
        "node n1 is evicted: nothing is issued to it, and it may not come back",
        "its agent reported that it wiped what it held",
        "it had 1 version in use; see `strongroom node exposure n1`, or evict it with --rotate",
    ]
    assert manager.asked[0].json == {"rotate": False}
    assert "it may keep 2 files until it asks again" in run("node", "evict", "n1").out


def test_evict_and_rotate_reports_and_exits_with_0(
    run: Run, manager: Canned, context: Context
) -> None:
    manager.on("POST /v1/nodes/n1/evict", (200, EVICTED))
    manager.on(f"GET /v1/nodes/{'n' * 26}/exposure", (200, EXPOSURE))
    done = run("node", "evict", "n1", "--rotate")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[2:] == [
        f"rotating 0, must be rotated 1, nothing to do 0 (operation {'o' * 26})",
        "",
        "SECRET  IN USE  OUTCOME          NEXT",
        "db      2       must be rotated  do it",
    ]
    assert manager.asked[0].json == {"rotate": True}
    shown = json.loads(run("node", "evict", "n1", "--rotate", "--format", "json").out)
    assert (shown["must_rotate"], shown["exposure"]["held"]) == (1, 0)


def test_evict_waits_for_what_rotates_by_itself(
    run: Run, manager: Canned, context: Context
) -> None:
    report = [{"secret": "db", "versions": [2], "outcome": "rotating", "detail": ""}]
    manager.on("POST /v1/nodes/n1/evict", (200, {**EVICTED, "secrets": report, "rotating": 1}))
    rotated = {**EXPOSURE, "receipts": [{**ROW, "version_state": "active"}]}
    path = f"GET /v1/nodes/{'n' * 26}/exposure"
    manager.on(path, (200, EXPOSURE), (200, EXPOSURE), (200, rotated))
    assert run("node", "evict", "n1", "--rotate").code == 0
    assert len(manager.asked) == 4
    manager.on(path, (200, EXPOSURE))
    done = run("node", "evict", "n1", "--rotate", "--timeout", "0s")
    assert done.code == 4
    assert "still rotating after 0 s: db; it goes on" in done.err


def test_evict_detached_asks_nothing_more(run: Run, manager: Canned, context: Context) -> None:
    manager.on("POST /v1/nodes/n1/evict", (200, EVICTED))
    assert run("node", "evict", "n1", "--rotate", "--detach").code == 0
    assert len(manager.asked) == 1


def test_ls_warns_of_what_must_be_rotated(run: Run, manager: Canned, context: Context) -> None:
    why = "must be rotated: node n1 was evicted"
    listed = {"name": "db", "labels": {}, "versions": [], "used_by": [], "must_rotate": why}
    manager.on("GET /v1/secrets", (200, {"secrets": [listed, {**listed, "must_rotate": ""}]}))
    assert run("secret", "ls").err == f"strongroom: secret db {why}\n"
    assert run("secret", "ls", "-q").err == ""


def test_configs_of_a_node_are_told_from_secrets(
    run: Run, manager: Canned, context: Context
) -> None:
    """A name alone may be of both; what is to be rotated are secrets."""
    config = {**ROW, "config": True, "secret_id": "c" * 26}
    exposed = {**EXPOSURE, "receipts": [{**ROW, "config": False}, config]}
    manager.on("GET /v1/nodes/n1/exposure", (200, exposed))
    assert "db (config)" in run("node", "exposure", "n1").out
    assert run("node", "exposure", "n1", "-q").out == "db\n"
    # A config of that name stays as it is: nobody waits for its rotation.
    rotating = {"secret": "db", "versions": [2], "outcome": "rotating", "detail": ""}
    retired = {**ROW, "config": False, "version_state": "retired"}
    manager.on("POST /v1/nodes/n1/evict", (200, {**EVICTED, "secrets": [rotating]}))
    path = f"GET /v1/nodes/{'n' * 26}/exposure"
    manager.on(path, (200, {**EXPOSURE, "receipts": [retired, config]}))
    done = run("node", "evict", "n1", "--rotate", "--timeout", "0s")
    assert (done.code, "still rotating" in done.err) == (0, False)
