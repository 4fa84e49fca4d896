"""The command on changes that go out in groups: what it tells, how it ends, what its flags mean."""

import json

import pytest

from cluster.cli.context_files import Context
from tests.unit.cli.canned import Canned
from tests.unit.cli.conftest import Run

POLICY = {"canary": 1, "parallelism": 1}


def shown(state: str, *tasks: str, step: int = 1, **more: object) -> dict[str, object]:
    """Return a rollout whose tasks on n1, n2, ... stand so."""
    targets = [
        {"node": f"n{number}", "service": "web", "state": task, "error": ""}
        for number, task in enumerate(tasks, 1)
    ]
    return {
        "id": "r1",
        "what": "rotate",
        "name": "db",
        "version": 3,
        "state": state,
        "reason": "",
        "step": step,
        "policy": POLICY,
        "can_go_back": True,
        "done": state not in {"running", "rolling_back"},
        "reached": sum(task in {"done", "back"} for task in tasks),
        "total": len(tasks),
        "elapsed_s": 2.0,
        "targets": targets,
        **more,
    }


def follow(manager: Canned, *progress: dict[str, object]) -> None:
    manager.on("POST /v1/secrets/db/versions", (201, {"name": "db", "version": 3, "rollout": "r1"}))
    manager.on("GET /v1/rollouts/r1", *((200, one) for one in progress))


def test_each_task_is_told_as_its_state_changes(
    run: Run, manager: Canned, context: Context
) -> None:
    follow(
        manager,
        shown("running", "pending", "pending"),
        shown("running", "released", "pending", step=2),
        shown("running", "done", "released", step=3),
        shown("finished", "done", "done", step=4),
    )
    done = run("secret", "rotate", "db", stdin=b"value")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "n1 (service web): released",
        "n1 (service web): done",
        "n2 (service web): released",
        "n2 (service web): done",
        "version 3 on 2 of 2 nodes in 2.0 s",
    ]
    asked = [one.path.rpartition("after=")[2] for one in manager.asked[1:]]
    assert asked == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        (
            shown("paused", "failed", "pending", reason="web on n1: unhealthy"),
            6,
            (
                "version 3 is paused on 0 of 2 nodes: web on n1: unhealthy; let it go on with "
                "`strongroom rollout resume r1`, or take it back with "
                "`strongroom rollout rollback r1`"
            ),
        ),
        (
            shown("rolled_back", "back", "back", reason="web on n1: unhealthy"),
            6,
            (
                "version 3 was rolled back: web on n1: unhealthy; the nodes have what they had "
                "before, see `strongroom rollout inspect r1`"
            ),
        ),
        (
            shown("failed", "failed", "done", reason="web on n1: unhealthy"),
            6,
            (
                "version 3 ended as failed on 1 of 2 nodes: web on n1: unhealthy; "
                "see `strongroom rollout inspect r1`"
            ),
        ),
        (
            shown("finished", "unreachable", "done", reason="left behind: web on n1"),
            4,
            "version 3 on 1 of 2 nodes; left behind: web on n1; these take it when they come back",
        ),
    ],
)
def test_what_did_not_reach_every_node_says_so_and_what_to_do(
    run: Run, manager: Canned, context: Context, end: dict[str, object], code: int, said: str
) -> None:
    follow(manager, end)
    done = run("secret", "rotate", "db", "--quiet", stdin=b"value")
    assert (done.code, done.err) == (code, f"strongroom: error: {said}\n")
    done = run("secret", "rotate", "db", "--format", "json", stdin=b"value")
    assert (done.code, json.loads(done.out)["progress"]) == (code, end)


def test_ls_names_what_goes_where(run: Run, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/rollouts", (200, {"rollouts": [shown("running", "done", "pending")]}))
    done = run("rollout", "ls")
    assert done.out.splitlines()[1].split() == [
        "r1", "rotate", "db", "version", "3", "running", "1/2", "-", "-",
    ]  # fmt: skip
    assert run("rollout", "ls", "-q").out == "r1\n"


def test_pause_resume_and_rollback(run: Run, manager: Canned, context: Context) -> None:
    for verb in ("pause", "resume", "rollback"):
        manager.on(f"POST /v1/rollouts/r1/{verb}", (200, {"name": "db", "rollout": "r1"}))
    assert run("rollout", "pause", "r1").code == 0
    manager.on("GET /v1/rollouts/r1", (200, shown("finished", "done")))
    assert run("rollout", "resume", "r1").out.endswith("version 3 on 1 of 1 node in 2.0 s\n")
    assert run("rollout", "wait", "r1").code == 0
    back = shown("rolled_back", "back", reason="taken back by ada")
    manager.on("GET /v1/rollouts/r1", (200, back))
    done = run("rollout", "rollback", "r1")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("version 3 is rolled back; taken back by ada\n")
    assert run("rollout", "wait", "r1").code == 6


def test_flags_of_one_rotation(run: Run, manager: Canned, context: Context) -> None:
    follow(manager, shown("finished", "done"))
    words = ("--canary", "1", "--monitor", "30s", "--on-failure", "rollback")
    assert run("secret", "rotate", "db", *words, stdin=b"value").code == 0
    assert manager.asked[0].path.endswith("?canary=1&monitor_s=30.0&on_failure=rollback")
    assert run("secret", "rotate", "db", "--canary", "-1", stdin=b"value").code == 2
    assert run("secret", "rotate", "db", "--on-failure", "shrug", stdin=b"value").code == 2
    assert run("secret", "rotate", "db", "--generate", "hex", "--canary", "1").code == 2


def created(run: Run, manager: Canned, *words: str) -> object:
    """Return the body that `service create web` sends."""
    manager.on("POST /v1/services", (201, {"name": "web"}))
    manager.asked.clear()
    assert run("service", "create", "web", *words).code == 0
    return manager.only().json


def test_flags_of_policies_and_health_checks(run: Run, manager: Canned, context: Context) -> None:
    words = (
        "--update-canary", "1", "--update-delay", "10s", "--update-failure-action", "pause",
        "--health-cmd", '["/bin/check", "-q"]', "--health-interval", "2s", "--health-retries", "2",
    )  # fmt: skip
    assert created(run, manager, *words) == {
        "name": "web",
        "update": {"canary": 1, "delay_s": 10.0, "on_failure": "pause"},
        "health": {"command": ["/bin/check", "-q"], "interval_s": 2.0, "retries": 2},
    }
    assert created(run, manager, "--health-cmd", "/bin/check", "--health-cmd=-q") == {
        "name": "web",
        "health": {"command": ["/bin/check", "-q"]},
    }
    for wrong in (
        ("--health-cmd", "/bin/check", "--health-cmd", "-q"),
        ("--health-cmd", '["/bin/check", 1]'),
        ("--health-cmd", "/bin/check", "--health-process"),
        ("--health-retries", "0"),
        ("--health-timeout", "soon"),
    ):
        assert run("service", "create", "web", *wrong).code == 2
    alone = run("service", "create", "web", "--health-interval", "1s")
    assert (alone.code, "go with a health check" in alone.err) == (1, True)


def test_update_changes_parts_of_policy_and_check(
    run: Run, manager: Canned, context: Context
) -> None:
    """What no flag names stays; another kind of check keeps the terms; `--health-none` ends it."""
    spec = {
        "references": [],
        "constraints": [],
        "labels": {},
        "replicas": 1,
        "update": {"canary": 1, "parallelism": 2},
        "health": {"command": ["/bin/check"], "url": "", "process": False, "retries": 2},
    }
    manager.on("GET /v1/services/web", (200, {"spec": spec, "spec_number": 1}))
    manager.on("PUT /v1/services/web", (200, {"name": "web", "spec_number": 2}))

    def sent(*words: str) -> dict[str, object]:
        assert run("service", "update", "web", *words).code == 0
        return dict(manager.asked[-1].json["spec"])

    changed = sent("--update-canary", "3", "--health-url", "http://127.0.0.1/up")
    assert changed["update"] == {"canary": 3, "parallelism": 2}
    assert changed["health"] == {"url": "http://127.0.0.1/up", "retries": 2}
    assert sent("--health-retries", "5")["health"] == {**spec["health"], "retries": 5}  # type: ignore[dict-item]  # a dict, two lines above
    assert sent("--health-none")["health"] is None
