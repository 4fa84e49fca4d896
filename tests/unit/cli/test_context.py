"""Contexts on disk: modes, the one in use, damage."""

import json
import stat
from pathlib import Path

import pytest

from cluster.cli.context_files import Context, ContextFiles
from tests.support.authority import ClusterAuthority
from tests.unit.cli.canned import Canned
from tests.unit.cli.conftest import Run, context_for


def test_files_are_for_their_owner_alone(
    run: Run, home: Path, files: ContextFiles, manager: Canned, context: Context
) -> None:
    manager.on("GET /v1/secrets", (200, {"secrets": []}))
    manager.revision = f"1.{'a' * 26}.1"
    run("secret", "ls")
    run("context", "use", "lab")
    files.pending_key("other")
    modes = {
        str(path.relative_to(home)): stat.S_IMODE(path.stat().st_mode) for path in home.rglob("*")
    }
    assert modes == {
        "contexts": 0o700,
        "contexts/lab.json": 0o600,
        "current": 0o600,
        "pending": 0o700,
        "pending/other.pem": 0o600,
        "seen": 0o700,
        "seen/lab.json": 0o600,
    }
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_context_comes_back_as_it_was_saved(files: ContextFiles, context: Context) -> None:
    assert files.load("lab") == context


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_open_to_others_is_refused(
    run: Run, home: Path, manager: Canned, context: Context, mode: int
) -> None:
    (home / "contexts" / "lab.json").chmod(mode)
    done = run("secret", "ls")
    assert (done.code, manager.asked) == (3, [])
    assert "chmod 600" in done.err


def test_no_context_says_how_to_get_one(run: Run, home: Path) -> None:
    done = run("secret", "ls")
    assert done.code == 1
    assert "run `strongroom init` or `strongroom operator enrol`" in done.err


def test_use_environment_and_flag_choose_in_this_order(
    run: Run,
    files: ContextFiles,
    authority: ClusterAuthority,
    manager: Canned,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("one", "two", "three"):
        files.save(context_for(authority, (manager.endpoint,), name=name))
    assert "choose one" in run("context", "show").err
    assert run("context", "use", "one").code == 0
    assert "name: one" in run("context", "show").out
    monkeypatch.setenv("STRONGROOM_CONTEXT", "two")
    assert "name: two" in run("context", "show").out
    assert "name: three" in run("--context", "three", "context", "show").out
    listed = run("context", "ls").out
    assert [line.split()[:2] for line in listed.splitlines()[1:]] == [
        ["one", "alice"],
        ["three", "alice"],
        ["*", "two"],
    ]


def test_show_never_shows_the_key(run: Run, context: Context, home: Path) -> None:
    secret = context.key_pem.reveal().decode().splitlines()[1]
    assert secret in (home / "contexts" / "lab.json").read_text().replace("\\n", "\n")
    for words in (["show"], ["show", "lab", "--format", "json"], ["ls", "--format", "json"]):
        done = run("context", *words)
        assert done.code == 0
        assert secret not in done.out
    assert secret not in repr(context)


def test_rm_removes_the_key_and_the_choice(
    run: Run, files: ContextFiles, home: Path, context: Context
) -> None:
    run("context", "use", "lab")
    assert run("context", "rm", "lab").code == 0
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert run("context", "rm", "lab").code == 1


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "x\n"])
def test_a_name_never_leaves_its_directory(run: Run, home: Path, name: str) -> None:
    done = run("context", "use", name)
    assert done.code == 1
    assert not home.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 9}'])
def test_a_damaged_context_is_one_line(
    run: Run, home: Path, context: Context, content: str
) -> None:
    path = home / "contexts" / "lab.json"
    path.write_text(content)
    done = run("secret", "ls")
    assert (done.code, done.err.count("\n")) == (1, 1)


def test_what_was_seen_may_be_lost(run: Run, home: Path, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/secrets", (200, {"secrets": []}))
    (home / "seen").mkdir()
    (home / "seen" / "lab.json").write_text(json.dumps({"revision": 5}))
    assert run("secret", "ls").code == 0


def test_a_relative_config_home_is_ignored(tmp_path: Path) -> None:
    from cluster.cli.settings import read_settings

    settings = read_settings({"XDG_CONFIG_HOME": "here", "HOME": str(tmp_path)})
    assert settings.directory == tmp_path / ".config" / "strongroom"
