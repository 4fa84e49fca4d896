"""The command lines start fast: `--help` loads none of the heavy modules.

The workload's verbs go further: they run under any Python 3.11, with nothing installed beside it.
"""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.local_server import Access, LocalServer
from cluster.protocol.secret_bytes import SecretBytes

HEAVY = {
    "asyncio",
    "cryptography",
    "fastapi",
    "grpc",
    "msgspec",
    "pydantic",
    "ssl",
    "structlog",
    "uvicorn",
    "websockets",
}

PROBE = """
import importlib, json, sys
sys.argv = [sys.argv[1], "--help"]
main = importlib.import_module(MODULE).main
try:
    status = main()
except SystemExit as exit:
    status = exit.code
assert not status, status
print("\\n" + json.dumps(sorted(sys.modules)))
"""


def modules_loaded_by_help(module: str) -> set[str]:
    """Return the top-level names in sys.modules after `--help` ran in a fresh interpreter."""
    result = subprocess.run(
        [sys.executable, "-c", PROBE.replace("MODULE", repr(module)), module],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in json.loads(result.stdout.splitlines()[-1])}


@pytest.mark.parametrize("module", ["cluster.cli.main", "agent.cli.main"])
def test_help_loads_nothing_heavy(module: str) -> None:
    loaded = modules_loaded_by_help(module)
    assert "argparse" in loaded, "the probe saw no command line"
    assert loaded & HEAVY == set()


WORKLOAD_VERBS = ("main", "verbs", "get", "ls", "exec", "doctor")


@pytest.mark.parametrize("verb", WORKLOAD_VERBS)
def test_workload_verb_needs_only_the_standard_library(root: Path, verb: str) -> None:
    """-I and -S leave no site-packages: what is not in the standard library cannot be imported."""
    source = f"import sys; sys.path.insert(0, {str(root)!r}); import agent.cli.{verb}"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", source], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


NEVER_FOR_GET = {"argparse", "enum", "json", "pathlib", "re", "socket", "typing"}
"""Each takes longer than the call."""

GET = """
import os, sys
from agent.cli.main import main
os._exit = lambda code: None
code = main()
print("\\n\\n" + " ".join(sys.modules))
sys.exit(code)
"""


@pytest.mark.parametrize("words", [["get", "db"], ["get", "-n", "db"]], ids=["plain", "flags"])
async def test_a_plain_get_loads_next_to_nothing(
    root: Path, tmp_path: Path, words: list[str]
) -> None:
    """With a flag it goes the long way, which is the control: there the probe sees argparse."""
    path = tmp_path / "s"
    access = Access(os.getuid(), os.getgid(), 0o600, None)
    server = LocalServer(path, access, lambda _request: SecretBytes(b"value"))
    await server.start()
    try:
        code = f"import sys; sys.path.insert(0, {str(root)!r})" + GET
        found = await asyncio.create_subprocess_exec(
            sys.executable, "-ISc", code, *words, "--socket", str(path), stdout=subprocess.PIPE
        )
        printed, _ = await found.communicate()
    finally:
        await server.close()
    assert (found.returncode, printed[:5]) == (0, b"value")
    loaded = set(printed.decode().rpartition("\n\n")[2].split()) & NEVER_FOR_GET
    assert (loaded == set()) == (words == ["get", "db"])
