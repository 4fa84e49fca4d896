"""`strongroom service`: from flags to a draft, and what is printed."""

import json
from typing import Any

import pytest

from cluster.cli.context_files import Context
from tests.unit.cli.canned import Canned
from tests.unit.cli.conftest import Run

CHANGED = {"id": "s", "name": "web", "spec_number": 2, "rollout": "r1"}
DONE = {"done": True, "reached": 1, "total": 1, "elapsed_s": 1.25, "targets": []}
SPEC: dict[str, Any] = {
    "references": [
        {
            "source": "db",
            "target": "db",
            "uid": None,
            "gid": None,
            "mode": "0440",
            "version": "primary",
            "on_lease_loss": "keep",
        },
        {"source": "key", "target": "key.pem", "mode": "0400", "version": 2},
    ],
    "constraints": ["node.labels.zone==a"],
    "replicas": 2,
    "global": False,
    "uid": 1000,
    "gid": 1000,
    "labels": {"team": "red"},
    "on_change": {"signal": "HUP", "command": [], "timeout_s": 10.0},
}
SERVICE = {"id": "s", "name": "web", "spec": SPEC, "previous_spec": None, "spec_number": 1}


def answering(manager: Canned) -> None:
    manager.on("POST /v1/services", (201, CHANGED))
    manager.on("GET /v1/services/web", (200, SERVICE))
    manager.on("PUT /v1/services/web", (200, CHANGED))
    manager.on("POST /v1/services/web/rollback", (200, CHANGED))
    manager.on("GET /v1/rollouts/r1", (200, DONE))


def test_create_sends_only_what_was_said(run: Run, manager: Canned, context: Context) -> None:
    answering(manager)
    done = run("service", "create", "web", "--secret", "db")
    assert (done.code, done.out) == (0, "service web on 1 of 1 node in 1.2 s\n")
    assert manager.asked[0].json == {"name": "web", "references": [{"source": "db"}]}


def test_create_with_everything(run: Run, manager: Canned, context: Context) -> None:
    answering(manager)
    done = run(
        *("service", "create", "web", "--detach", "--replicas", "3", "--uid", "7", "--gid", "8"),
        "--secret",
        "source=db,target=pw,uid=1,gid=2,mode=0400,version=4,on-lease-loss=wipe,lease=5m",
        *("--constraint", "node.labels.zone==a", "--constraint", "node.name!=n1"),
        *("--label", "team=red", "--on-change-timeout", "5s"),
        *("--on-change-command", "/bin/reload", "--on-change-command", "now"),
    )
    assert done.code == 0
    assert manager.only().json == {
        "name": "web",
        "references": [
            {
                "source": "db",
                "target": "pw",
                "uid": 1,
                "gid": 2,
                "mode": "0400",
                "version": "4",
                "on_lease_loss": "wipe",
                "lease_s": 300.0,
            }
        ],
        "constraints": ["node.labels.zone==a", "node.name!=n1"],
        "uid": 7,
        "gid": 8,
        "labels": {"team": "red"},
        "on_change": {"command": ["/bin/reload", "now"], "timeout_s": 5.0},
        "replicas": 3,
        "global": False,
    }


@pytest.mark.parametrize(
    "words",
    [
        ["--secret", "target=x"],
        ["--secret", "source=a,source=b"],
        ["--secret", "source=a,colour=red"],
        ["--secret", "source=a,uid=root"],
        ["--secret", "source="],
        ["--secret", "source=a,lease=soon"],
        ["--secret", "source=a,lease=1m,lease=2m"],
        ["--replicas", "2", "--global"],
        ["--replicas", "-1"],
        ["--label", "novalue"],
        ["--timeout", "soon"],
        ["--on-change-signal", "HUP", "--on-change-command", "/x"],
    ],
)
def test_wrong_usage_exits_2_before_anything_is_sent(
    run: Run, manager: Canned, context: Context, words: list[str]
) -> None:
    done = run("service", "create", "web", *words)
    assert (done.code, done.out, manager.asked) == (2, "", [])
    assert "see `strongroom service create --help`" in done.err


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["--replicas", "5"], {"replicas": 5}),
        (["--global"], {"global": True}),
        (["--uid", "9"], {"uid": 9}),
        (["--secret", "new"], {"references": [{"source": "new"}]}),
        (
            ["--secret-add", "source=new,target=db"],
            {"references": [{"source": "new", "target": "db"}, SPEC["references"][1]]},
        ),
        (["--secret-rm", "key"], {"references": SPEC["references"][:1]}),
        (["--secret-rm", "key.pem"], {"references": SPEC["references"][:1]}),
        (
            ["--constraint-add", "node.name==n1", "--constraint-rm", "node.labels.zone==a"],
            {"constraints": ["node.name==n1"]},
        ),
        (
            ["--placement-pref", "spread=node.labels.zone"],
            {"placement_prefs": ["spread=node.labels.zone"]},
        ),
        (
            ["--placement-pref-add", "spread=node.labels.rack"],
            {"placement_prefs": ["spread=node.labels.rack"]},
        ),
        (["--label-add", "a=b", "--label-rm", "team"], {"labels": {"a": "b"}}),
        (["--on-change-rm"], {"on_change": None}),
        (["--on-change-signal", "USR1"], {"on_change": {"signal": "USR1"}}),
        (["--on-change-timeout", "3s"], {"on_change": {**SPEC["on_change"], "timeout_s": 3.0}}),
    ],
)
def test_update_keeps_what_no_flag_names(
    run: Run, manager: Canned, context: Context, words: list[str], changes: dict[str, Any]
) -> None:
    answering(manager)
    done = run("service", "update", "web", *words)
    assert (done.code, done.out) == (0, "spec 2 on 1 of 1 node in 1.2 s\n")
    sent = manager.asked[1].json
    assert sent == {"spec": {"name": "web", **SPEC, **changes}, "expected_spec_number": 1}


def test_a_preference_is_taken_away(run: Run, manager: Canned, context: Context) -> None:
    answering(manager)
    prefs = ["spread=node.labels.zone", "spread=node.labels.rack"]
    shown = {**SERVICE, "spec": {**SPEC, "placement_prefs": prefs}}
    manager.on("GET /v1/services/web", (200, shown))
    assert run("service", "update", "web", "--placement-pref-rm", prefs[0]).code == 0
    assert manager.asked[1].json["spec"]["placement_prefs"] == prefs[1:]


def test_update_of_a_global_service_sends_no_number(
    run: Run, manager: Canned, context: Context
) -> None:
    answering(manager)
    spec = {**SPEC, "global": True, "replicas": None}
    manager.on("GET /v1/services/web", (200, {**SERVICE, "spec": spec}))
    assert run("service", "update", "web", "--uid", "9").code == 0
    sent = manager.asked[1].json["spec"]
    assert (sent["global"], "replicas" in sent) == (True, False)


def test_update_reads_again_when_somebody_was_faster(
    run: Run, manager: Canned, context: Context
) -> None:
    answering(manager)
    stale = (409, {"code": "stale_version", "message": "changed"})
    manager.on("GET /v1/services/web", (200, SERVICE), (200, {**SERVICE, "spec_number": 4}))
    manager.on("PUT /v1/services/web", stale, (200, CHANGED))
    assert run("service", "update", "web", "--uid", "9").code == 0
    puts = [asked for asked in manager.asked if asked.method == "PUT"]
    assert [put.json["expected_spec_number"] for put in puts] == [1, 4]
    first, second = (put.headers["strongroom-request-id"] for put in puts)
    assert first != second


def test_update_gives_up_after_three_times(run: Run, manager: Canned, context: Context) -> None:
    answering(manager)
    manager.on("PUT /v1/services/web", (409, {"code": "stale_version", "message": "changed"}))
    done = run("service", "update", "web", "--uid", "9")
    assert done.code == 1
    assert done.err.startswith("strongroom: error: changed (request ")
    assert sum(asked.method == "PUT" for asked in manager.asked) == 3


def test_removing_a_reference_that_is_not_there(
    run: Run, manager: Canned, context: Context
) -> None:
    answering(manager)
    done = run("service", "update", "web", "--secret-rm", "nope")
    assert (done.code, "no reference to nope" in done.err) == (1, True)


def test_rollback(run: Run, manager: Canned, context: Context) -> None:
    answering(manager)
    assert run("service", "rollback", "web").out == "spec 2 on 1 of 1 node in 1.2 s\n"


def test_update_with_rollback_is_a_rollback(run: Run, manager: Canned, context: Context) -> None:
    answering(manager)
    done = run("service", "update", "web", "--rollback")
    assert (done.code, done.out) == (0, "spec 2 on 1 of 1 node in 1.2 s\n")
    assert manager.asked[0].path == "/v1/services/web/rollback"


@pytest.mark.parametrize(
    "words",
    [
        ["--uid", "9"],
        ["--secret-add", "db"],
        ["--secret-rm", "db"],
        ["--constraint-rm", "node.name==n1"],
        ["--label-rm", "team"],
        ["--placement-pref-add", "spread=node.labels.zone"],
        ["--placement-pref-rm", "spread=node.labels.zone"],
        ["--on-change-rm"],
        ["--health-none"],
        ["--on-change-timeout", "3s"],
        ["--replicas", "2"],
    ],
)
def test_rollback_goes_alone(run: Run, manager: Canned, context: Context, words: list[str]) -> None:
    """It brings a whole spec back: a change beside it would be lost without a word."""
    answering(manager)
    done = run("service", "update", "web", "--rollback", *words)
    assert (done.code, manager.asked) == (1, [])
    assert "--rollback goes alone" in done.err


def test_ls_and_ps(run: Run, manager: Canned, context: Context) -> None:
    listed = {**SERVICE, "tasks_running": 1, "tasks_desired": 2}
    manager.on("GET /v1/services", (200, {"services": [listed]}))
    assert run("service", "ls").out.splitlines() == [
        "NAME  TASKS  SECRETS  CONSTRAINTS          SPEC  UPDATED",
        "web   1/2    db,key   node.labels.zone==a  1     -",
    ]
    mounted = {"source": "db", "target": "pw", "version_desired": 3, "version_mounted": 2}
    task = {"node": "n1", "node_state": "ready", "desired_state": "running", "error": "full"}
    failing = {"health": "unhealthy", "health_detail": "exit status 3"}
    tasks = [
        {**task, **failing, "references": [{**mounted, "since": "now"}]},
        {**task, "health": "", "health_detail": "", "references": []},
    ]
    ended = {**task, "node": "n2", "desired_state": "orphaned", "references": [], "health": ""}
    ended |= {"since": "then", "error": "", "reason": "node n2 is down"}
    manager.on("GET /v1/services/web/tasks", (200, {"tasks": tasks, "ended": [ended]}))
    assert run("service", "ps", "web").out.splitlines() == [
        (
            "NODE  NODE STATE  DESIRED   SECRET  TARGET  VERSION  MOUNTED  SINCE  HEALTH"
            "                    ERROR  REASON"
        ),
        (
            "n1    ready       running   db      pw      3        2        now    unhealthy:"
            " exit status 3  full   -"
        ),
        (
            "n1    ready       running   -       -       -        -        -      -         "
            "                full   -"
        ),
        (
            "n2    ready       orphaned  -       -       -        -        then   -         "
            "                -      node n2 is down"
        ),
    ]
    assert run("service", "ps", "web", "-q").out == "n1\nn1\n"
    assert json.loads(run("service", "ps", "web", "--format", "json").out) == [*tasks, ended]
