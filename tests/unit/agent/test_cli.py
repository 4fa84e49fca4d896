"""The command line of a node: raw values, stable exit codes, no dependency."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from fnmatch import fnmatch
from pathlib import Path
from zipfile import ZipFile

import pytest

from agent.cli import zipapp
from agent.cli.main import main
from agent.cli.verbs import VERBS
from tests.support.mounts import (
    MEMORY_ONLY,
    mount_filesystem,
    mounts_taken_away,
    reachable_directory,
)
from tests.support.node import PYTHON, Done, Node, finished, running_node, start_agent_command


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path) as running:
        yield running


@pytest.fixture
def archive() -> Iterator[Path]:
    """Build the stdlib-only command where every uid can read it."""
    with reachable_directory() as directory:
        target = directory / "strongroom-agent"
        zipapp.build(target)
        yield target


CLOSES = "import os, sys; r, w = os.pipe(); os.close(r); os.dup2(w, 1); "
CLOSES += "os.execv(sys.argv[1], sys.argv[1:])"
"""Runs a command whose output goes to a pipe that nobody reads."""


async def run(*arguments: str) -> Done:
    return await finished(await start_agent_command(*arguments))


async def test_get_and_ls_run_inside_a_service(node: Node, archive: Path) -> None:
    """As red, from the archive, with the system's Python: the value raw, names in a table."""
    done = await node.run_exec("red", PYTHON, "-I", str(archive), "get", "db")
    assert (done.code, done.stdout, done.stderr) == (0, "red-value", "")
    done = await node.run_exec("red", PYTHON, "-I", str(archive), "get", "-n", "db")
    assert done.stdout == "red-value\n"
    done = await node.run_exec("red", PYTHON, "-I", str(archive), "ls")
    assert done.stdout == "NAME  TARGET\ndb    db\n"
    done = await node.run_exec("red", PYTHON, "-I", str(archive), "ls", "-q")
    assert done.stdout == "db\n"
    done = await node.run_exec("red", PYTHON, "-I", str(archive), "ls", "--format", "json")
    assert json.loads(done.stdout) == [{"name": "db", "target": "db"}]


async def test_the_archive_starts_itself_from_bytecode(node: Node, archive: Path) -> None:
    """It names its own Python; bytecode that is not that Python's is passed over for the source."""
    archive.chmod(0o755)
    done = await node.run_exec("red", str(archive), "get", "db")
    assert (done.code, done.stdout, done.stderr) == (0, "red-value", "")
    with ZipFile(archive) as files:
        names = [name for name in files.namelist() if not name.endswith("/")]
        contents = {name: files.read(name) for name in names}
    sources = {name for name in contents if name.endswith(".py")}
    assert {f"{name}c" for name in sources} == contents.keys() - sources
    for spoilt, expected in (("main.pyc", "red-value"), ("main.py", "red-value"), ("main.py*", "")):
        with ZipFile(archive, "w") as files:
            for name, content in contents.items():
                files.writestr(name, content[::-1] if fnmatch(name, f"*/{spoilt}") else content)
        done = await node.run_exec("red", PYTHON, "-IS", str(archive), "get", "db")
        assert done.stdout == expected, (spoilt, done)


def test_the_archive_starts_with_the_python_it_is_told(tmp_path: Path) -> None:
    """An image of python:3.x has none in /usr/bin."""
    told, plain = tmp_path / "told", tmp_path / "plain"
    build = [sys.executable, "-m", "agent.cli.zipapp"]
    subprocess.run([*build, str(told), "/usr/local/bin/python3"], check=True, timeout=60)
    subprocess.run([*build, str(plain)], check=True, timeout=60)
    assert told.read_bytes().startswith(b"#!/usr/local/bin/python3 -IS\n")
    assert plain.read_bytes().startswith(b"#!/usr/bin/python3 -IS\n")


async def test_get_of_what_is_not_ours_exits_3(node: Node, archive: Path) -> None:
    """Not there and not yours read the same, and nothing goes to standard output."""
    done = await node.run_exec("red", PYTHON, "-I", str(archive), "get", "other")
    assert (done.code, done.stdout) == (3, "")
    assert done.stderr == "strongroom-agent: not permitted\n"


async def test_get_of_another_services_socket_exits_3(node: Node) -> None:
    """Root reaches the socket, but is not the service."""
    socket = str(node.workload.socket_path("red"))
    done = await run("get", "db", "--socket", socket)
    assert (done.code, done.stdout) == (3, "")


@pytest.mark.parametrize(
    ("redirected", "code", "told"),
    [
        (">/dev/full", 1, "standard output: No space left on device"),
        (">&-", 1, "standard output is closed"),
        (">/dev/full 2>/dev/full", 1, ""),
        (">&- 2>&-", 1, ""),
        ("2>/dev/full", 0, ""),
    ],
)
@pytest.mark.parametrize("newline", ["", "-n"], ids=["short", "long"])
async def test_get_without_an_output_is_one_line_and_a_code(
    node: Node, archive: Path, redirected: str, code: int, told: str, newline: str
) -> None:
    """No traceback, and no value where it was not asked for."""
    done = await in_shell(node, archive, f"get {newline} db {redirected}")
    assert (done.code, done.stderr.count("\n")) == (code, 1 if told else 0), done
    assert told in done.stderr
    assert "red-value" not in done.stderr


PRINTS = ("ls", "ls -q", "ls --format json", "doctor", "doctor --format json", "--help")


@pytest.mark.parametrize(
    ("redirected", "told"),
    [
        (">/dev/full", "strongroom-agent: standard output: No space left on device\n"),
        (">&-", "strongroom-agent: standard output is closed\n"),
        (">/dev/full 2>/dev/full", ""),
        (">&- 2>&-", ""),
    ],
)
async def test_what_prints_without_an_output_is_one_line_and_a_code(
    node: Node, archive: Path, redirected: str, told: str
) -> None:
    for words in PRINTS:
        done = await in_shell(node, archive, f"{words} {redirected}")
        assert (done.code, done.stdout, done.stderr.endswith(told)) == (1, "", True), words
        assert "Traceback" not in done.stderr
        # Where there is no output, the help itself is on standard error.
        assert done.stderr == told or words == "--help", words


async def test_what_prints_for_a_reader_that_went_ends_quietly(node: Node, archive: Path) -> None:
    for words in PRINTS:
        command = [PYTHON, "-I", "-c", CLOSES, PYTHON, "-IS", str(archive), *words.split()]
        done = await node.run_exec("red", *command)
        assert (done.code, done.stdout, done.stderr) == (1, "", ""), words


async def test_get_into_a_closed_pipe_is_one_line(node: Node, archive: Path) -> None:
    """The reader ends before the command begins to write."""
    command = [PYTHON, "-I", "-c", CLOSES, PYTHON, "-IS", str(archive), "get", "db"]
    done = await node.run_exec("red", *command)
    assert (done.code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "standard output: Broken pipe" in done.stderr


@pytest.mark.parametrize("redirected", ["2>/dev/full", "2>&-"])
@pytest.mark.parametrize("words", ["get other", "get -n other"])
async def test_a_refusal_that_nobody_hears_has_its_code(
    node: Node, archive: Path, words: str, redirected: str
) -> None:
    done = await in_shell(node, archive, f"{words} {redirected}")
    assert (done.code, done.stdout, done.stderr) == (3, "", "")


async def in_shell(node: Node, archive: Path, words: str) -> Done:
    """Run the archive with the words of a shell, as red."""
    return await node.run_exec("red", "/bin/sh", "-c", f"exec {PYTHON} -IS {archive} {words}")


async def test_failures_say_what_to_do(tmp_path: Path) -> None:
    """No socket: exit 1 and a hint."""
    done = await run("get", "db", "--socket", str(tmp_path / "none.sock"))
    assert done.code == 1
    assert "is this a service of the node? see --socket" in done.stderr


def test_archive_brings_doctor_but_not_the_agent(archive: Path) -> None:
    """`doctor` runs anywhere; `run` says where it is to be had."""
    command = [PYTHON, "-I", str(archive)]
    doctor = subprocess.run([*command, "doctor"], capture_output=True, text=True, check=False)
    assert doctor.returncode in (0, 1)
    assert all(
        line.split()[0] in ("secure", "weak", "insecure") for line in doctor.stdout.splitlines()
    )
    assert len(doctor.stdout.splitlines()) == 9
    agent = subprocess.run([*command, "run"], capture_output=True, text=True, check=False)
    assert agent.returncode == 1
    assert "install the package" in agent.stderr


async def test_doctor_proves_given_volumes(tmp_path: Path) -> None:
    """A good volume adds secure findings; a directory on disk makes the whole insecure."""
    with mounts_taken_away(tmp_path / "volumes") as root:
        good = mount_filesystem(root / "red", "tmpfs", f"{MEMORY_ONLY},mode=2750")
        done = await run("doctor", "--format", "json", "--volume", str(good))
        findings = {row["name"]: row["strength"] for row in json.loads(done.stdout)}
        assert done.code == 0
        assert findings[f"{good} swap"] == "secure"
        done = await run("doctor", "--volume", str(tmp_path))
        assert done.code == 1
        assert "insecure" in done.stdout


def test_usage_errors_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    """As every argparse command."""
    for words in ([], ["nonsense"], ["get"], ["exec", "--service", "red", "--timeout", "x", "t"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    """And imports none of them."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    listed = capsys.readouterr().out
    assert all(f"    {verb} " in listed for verb in VERBS)
