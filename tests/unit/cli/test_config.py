"""`strongroom config`, and references to configs in `strongroom service`, as transcripts."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.context_files import Context
from cluster.cli.main import main
from tests.unit.cli.canned import Canned
from tests.unit.cli.conftest import Run

CONTENT = b"listen 8080;\n\tserver \xff\n"
CONFIG = {
    "id": "c" * 26,
    "name": "nginx",
    "labels": {"team": "red"},
    "index": 7,
    "size": len(CONTENT),
    "created_at": "2026-01-01T00:00:00.000Z",
    "updated_at": "2026-01-01T00:00:00.000Z",
    "used_by": ["web"],
}
READ = {**CONFIG, "data": base64.b64encode(CONTENT).decode()}
SECRET: dict[str, Any] = {"source": "db", "target": "db", "config": False}
PLAIN: dict[str, Any] = {"source": "nginx", "target": "nginx.conf", "config": True}


@pytest.mark.parametrize("source", ["file", "-", "stdin"])
def test_create_sends_the_content_as_it_is(
    run: Run, manager: Canned, context: Context, tmp_path: Path, source: str
) -> None:
    manager.on("POST /v1/configs", (201, {"id": "x", "name": "nginx"}))
    (tmp_path / "nginx.conf").write_bytes(CONTENT)
    words = {"file": [str(tmp_path / "nginx.conf")], "-": ["-"], "stdin": []}[source]
    stdin = b"" if source == "file" else CONTENT
    done = run("config", "create", "nginx", *words, "--label", "team=red", stdin=stdin)
    assert (done.code, done.out, done.err) == (0, "config nginx created\n", "")
    asked = manager.only()
    assert asked.body == CONTENT
    assert asked.path == "/v1/configs?name=nginx&label=team%3Dred"


def test_ls_and_inspect_tell_no_content(run: Run, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/configs", (200, {"configs": [CONFIG]}))
    manager.on("GET /v1/configs/nginx", (200, CONFIG))
    assert run("config", "ls", "--filter", "label=team=red").out.splitlines() == [
        "NAME   SIZE  USED BY  LABELS    CREATED                   UPDATED",
        "nginx  23    web      team=red  2026-01-01T00:00:00.000Z  2026-01-01T00:00:00.000Z",
    ]
    assert manager.asked[0].path == "/v1/configs?label=team%3Dred&limit=1000"
    assert run("config", "ls", "-q").out == "nginx\n"
    assert "size: 23" in run("config", "inspect", "nginx").out.splitlines()
    assert json.loads(run("config", "inspect", "nginx", "--format", "json").out) == CONFIG


def test_content_comes_back_byte_by_byte(
    manager: Canned, context: Context, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    manager.on("GET /v1/configs/nginx/content", (200, READ))
    assert main(["config", "inspect", "nginx", "--content"]) == 0
    assert capsysbinary.readouterr().out == CONTENT


def test_pretty_content_cannot_draw_on_the_screen(
    run: Run, manager: Canned, context: Context
) -> None:
    hostile = base64.b64encode(b"a\tb\n\x1b[2J\xff\r\n").decode()
    manager.on("GET /v1/configs/nginx/content", (200, {**READ, "data": hostile}))
    lines = run("config", "inspect", "nginx", "--pretty").out.splitlines()
    assert lines[-3:] == ["content:", "a       b", "\\x1b[2J\\xff\\r"]
    assert not any(line.startswith("data") for line in lines)
    shown = run("config", "inspect", "nginx", "--pretty", "--format", "json").out
    assert json.loads(shown)["data"] == hostile


def test_answer_without_a_content_is_refused(run: Run, manager: Canned, context: Context) -> None:
    for answer in (CONFIG, {**READ, "data": "no base64!"}, {**READ, "data": 7}):
        manager.on("GET /v1/configs/nginx/content", (200, answer))
        done = run("config", "inspect", "nginx", "--content")
        assert (done.code, done.out) == (1, "")
        assert "the manager's answer" in done.err


def test_label_and_rm(run: Run, manager: Canned, context: Context) -> None:
    manager.on("PATCH /v1/configs/nginx/labels", (200, {"name": "nginx", "labels": {}}))
    manager.on("DELETE /v1/configs/nginx", (200, {"id": "x", "name": "nginx"}))
    in_use = {"code": "config_in_use", "message": "config 'other' is in use by service 'web'"}
    manager.on("DELETE /v1/configs/other", (409, in_use))
    done = run("config", "label", "nginx", "--add", "a=b", "--remove", "team")
    assert done.out == "config nginx labelled\n"
    assert manager.asked[0].json == {"add": {"a": "b"}, "remove": ["team"]}
    done = run("config", "rm", "nginx", "other")
    assert (done.code, done.out) == (1, "config nginx removed\n")
    assert done.err.startswith("strongroom: error: config 'other' is in use by service 'web'")


@pytest.mark.parametrize("noun", ["config", "secret"])
def test_templates_are_refused_with_the_reason(run: Run, context: Context, noun: str) -> None:
    done = run(noun, "create", "x", "-", "--template-driver", "golang", stdin=b"{{.Node.ID}}")
    assert (done.code, done.out) == (2, "")
    assert "templates are not supported; render the" in done.err


def answering(manager: Canned, *references: dict[str, Any]) -> None:
    spec = {"references": [*references], "constraints": [], "replicas": 1, "labels": {}}
    changed = {"id": "s", "name": "web", "spec_number": 2, "rollout": "r1"}
    manager.on("POST /v1/services", (201, changed))
    manager.on("GET /v1/services/web", (200, {"name": "web", "spec": spec, "spec_number": 1}))
    manager.on("PUT /v1/services/web", (200, changed))


def test_service_is_created_with_secrets_and_configs(
    run: Run, manager: Canned, context: Context
) -> None:
    answering(manager)
    long = "source=nginx,target=nginx.conf,uid=1,gid=2,mode=0444,on-lease-loss=wipe"
    words = ("--secret", "db", "--config", long, "--config", "motd", "--detach")
    assert run("service", "create", "web", *words).code == 0
    nginx = {"source": "nginx", "target": "nginx.conf", "uid": 1, "gid": 2, "mode": "0444"}
    assert manager.asked[0].json["references"] == [
        {"source": "db"},
        {**nginx, "on_lease_loss": "wipe", "config": True},
        {"source": "motd", "config": True},
    ]


@pytest.mark.parametrize(
    ("flags", "references"),
    [
        ("--config motd", [SECRET, {"source": "motd", "config": True}]),
        ("--secret key", [{"source": "key"}, PLAIN]),
        ("--config-add motd", [SECRET, PLAIN, {"source": "motd", "config": True}]),
        (
            "--config-add source=new,target=nginx.conf",
            [SECRET, {"source": "new", "target": "nginx.conf", "config": True}],
        ),
        ("--config-rm nginx", [SECRET]),
        ("--config-rm nginx.conf", [SECRET]),
        ("--secret-rm db", [PLAIN]),
        # The same target in the other kind is no replacement: the manager refuses two of a target.
        ("--config-add db", [SECRET, PLAIN, {"source": "db", "config": True}]),
        ("--secret-add nginx.conf", [SECRET, {"source": "nginx.conf"}, PLAIN]),
        ("--replicas 3", [SECRET, PLAIN]),
    ],
)
def test_flags_of_one_kind_leave_the_other_alone(
    run: Run, manager: Canned, context: Context, flags: str, references: list[object]
) -> None:
    answering(manager, SECRET, PLAIN)
    assert run("service", "update", "web", *flags.split(), "--detach").code == 0
    assert manager.asked[1].json["spec"]["references"] == references


@pytest.mark.parametrize("flags", ["--config-rm db", "--secret-rm nginx", "--config-rm none"])
def test_what_is_not_there_is_not_removed(
    run: Run, manager: Canned, context: Context, flags: str
) -> None:
    answering(manager, SECRET, PLAIN)
    done = run("service", "update", "web", *flags.split(), "--detach")
    assert done.code == 1
    assert "has no reference to" in done.err
    assert len(manager.asked) == 1


@pytest.mark.parametrize("field", ["version=1", "previous", "kind=config"])
def test_reference_to_a_config_takes_no_version(run: Run, context: Context, field: str) -> None:
    done = run("service", "create", "web", "--config", f"source=nginx,{field}")
    assert done.code == 2


def test_service_lists_show_configs(run: Run, manager: Canned, context: Context) -> None:
    service = {"name": "web", "tasks_running": 1, "tasks_desired": 1, "spec_number": 1}
    spec = {"references": [SECRET, PLAIN], "constraints": []}
    manager.on("GET /v1/services", (200, {"services": [{**service, "spec": spec}]}))
    assert run("service", "ls").out.splitlines() == [
        "NAME  TASKS  SECRETS  CONFIGS  CONSTRAINTS  SPEC  UPDATED",
        "web   1/1    db       nginx    -            1     -",
    ]
    task = {"node": "n1", "references": [SECRET, PLAIN]}
    manager.on("GET /v1/services/web/tasks", (200, {"tasks": [task], "ended": []}))
    out = run("service", "ps", "web").out
    assert " db " in out
    assert "nginx (config)" in out
