"""The command as a process: how it starts, what it loads, how it ends."""

import argparse
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from cluster.cli.arguments import Parser
from cluster.cli.context_files import Context
from cluster.cli.main import COMMANDS
from tests.unit.cli.canned import Canned
from tests.unit.cli.conftest import Run

PROBE = """
import json, sys
from cluster.cli.main import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]))
raise SystemExit(code)
"""
NEVER_FOR_LS = {
    "asyncio",
    "cryptography",
    "dataclasses",
    "fastapi",
    "grpc",
    "h11",
    "http.client",
    "inspect",
    "logging",
    "msgspec",
    "pydantic",
    "random",
    "structlog",
    "uvicorn",
    "cluster.cli.service",
    "cluster.cli.renewal",
    "cluster.config",
    "cluster.manager",
}


def test_ls_loads_only_what_it_needs(home: Path, manager: Canned, context: Context) -> None:
    """80 ms of imports are what an operator feels; each of these costs ten or more."""
    manager.on("GET /v1/secrets", (200, {"secrets": []}))
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "secret", "ls", "-q"],
        capture_output=True,
        text=True,
        check=True,
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    assert "cluster.cli.secret" in modules
    assert NEVER_FOR_LS & set(modules) == set()


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=str)
def test_every_help_is_there(run: Run, command: list[str]) -> None:
    done = run(*command, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("usage: strongroom")


def verbs(noun: str, asked: str | None) -> dict[str, Parser]:
    """Return the parsers of a noun's verbs, as they are when one of them is asked for."""
    parser = Parser(prog=f"strongroom {noun}")
    parser.asked = asked
    import_module(COMMANDS[noun][0]).add_commands(parser)
    added = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    return added[0].choices if added else {}


@pytest.mark.parametrize("noun", COMMANDS)
def test_a_verb_is_the_same_without_the_others(noun: str) -> None:
    """The flags of the others are not made: that took longer than the request."""
    everything = verbs(noun, None)
    for name, parser in everything.items():
        alone = verbs(noun, name)
        assert list(alone) == list(everything)
        assert alone[name].format_help() == parser.format_help()
        assert [other for other in alone if len(alone[other]._actions)] == [name]
        assert alone[name]._defaults == parser._defaults


def test_wrong_words_exit_2(run: Run) -> None:
    for words in ([], ["bogus"], ["secret"], ["secret", "bogus"], ["secret", "ls", "--nope"]):
        done = run(*words)
        assert (done.code, done.out) == (2, "")


def test_a_flag_is_never_guessed(run: Run, context: Context) -> None:
    assert run("secret", "ls", "--form", "json").code == 2


def test_version(run: Run) -> None:
    assert run("--version").out.startswith("strongroom 0.")


def test_the_unexpected_is_one_line_without_its_text(
    run: Run, home: Path, context: Context, manager: Canned
) -> None:
    """A name that is no text of ours: whatever happens, no traceback and no quoting."""
    manager.on("GET /v1/secrets", (200, {"secrets": [{"name": "x", "versions": "canary"}]}))
    done = run("secret", "ls")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "canary" not in done.err


@pytest.mark.needs_root
def test_a_value_in_memory_ends_in_no_core_dump(home: Path) -> None:
    probe = (
        "import resource, sys; sys.argv = ['strongroom', 'context', 'ls']\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (4096, 4096))\n"
        "from cluster.cli.main import main; main()\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE))"
    )
    command = [sys.executable, "-c", probe]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "(0, 0)"


def test_a_closed_pipe_is_no_traceback(home: Path, manager: Canned, context: Context) -> None:
    many = [{"name": f"secret-{number}", "versions": []} for number in range(20_000)]
    manager.on("GET /v1/secrets", (200, {"secrets": many}))
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, "secret", "ls"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_what_a_node_reports_cannot_draw_on_the_screen(
    run: Run, manager: Canned, context: Context
) -> None:
    hostile = {"node": "n1\x1b[2J", "error": "a\r\nb\u202e", "references": []}
    manager.on("GET /v1/services/web/tasks", (200, {"tasks": [hostile], "ended": []}))
    done = run("service", "ps", "web")
    assert "n1\\x1b[2J" in done.out
    assert "a\\r\\nb\\u202e" in done.out
    assert "\x1b" not in done.out
