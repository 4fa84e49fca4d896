"""The command lines start fast: `--help` loads none of the heavy modules.

The workload's verbs go further: they run under any Python 3.11, with nothing installed beside it.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


WORKLOAD_VERBS = ("main", "get", "ls", "exec", "doctor")


@pytest.mark.parametrize("verb", WORKLOAD_VERBS)
def test_workload_verb_needs_only_the_standard_library(root: Path, verb: str) -> None:
    """-I and -S leave no site-packages: what is not in the standard library cannot be imported."""
    source = f"import sys; sys.path.insert(0, {str(root)!r}); import agent.cli.{verb}"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", source], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
