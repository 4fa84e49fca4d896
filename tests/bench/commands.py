"""Commands from nothing to their answer, beside the start of the interpreter alone."""

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from agent.cli import zipapp
from tests.bench import targets
from tests.bench.load import generating
from tests.bench.rows import Row
from tests.bench.stage import SECRET, SERVICE, UID, VALUE_BYTES, Stage, creation
from tests.support.command_line import CommandLine
from tests.support.node import PYTHON

LISTED: Final = 1_000


def commands(stage: Stage) -> list[Row]:
    """Measure commands; the sides take turns."""
    fill(stage, LISTED)
    shell, archive = enrolled(stage), agent_archive(stage)
    socket = stage.agent.run_dir / "workload" / SERVICE / "workload.sock"
    taken = in_turns(
        [lambda: nothing(PYTHON), lambda: get(archive, socket), lambda: listed(shell)],
        stage.size.starts,
    )
    return [
        Row.of("start of the interpreter alone", "ms", taken[0], note="python3 -I -c pass"),
        Row.of(targets.GET, "ms", taken[1]),
        Row.of(targets.LISTED, "ms", taken[2]),
    ]


def fill(stage: Stage, count: int) -> None:
    """Create secrets until there are `count`."""
    there: int = stage.cluster.ok("GET", "/v1/status")["secrets"]
    if there < count:
        with generating(stage.target(), creation(f"listed-{there}"), 64) as generator:
            generator.round(count - there)


def enrolled(stage: Stage) -> CommandLine:
    """Return the shell of an operator who may look."""
    shell = CommandLine(stage.cluster.base / "operator")
    added = stage.cluster.ok("POST", "/v1/operators", {"name": "bench", "role": "auditor"})
    join = stage.cluster.managers[0].join
    shell.ok("operator", "enrol", "--manager", join, stdin=str(added["token"]).encode())
    return shell


def agent_archive(stage: Stage) -> Path:
    """Return the agent's program as a service finds it."""
    archive = stage.cluster.base / "strongroom-agent.pyz"
    zipapp.build(archive)
    archive.chmod(0o755)
    return archive


def listed(shell: CommandLine) -> None:
    """List every secret."""
    assert len(shell.ok("secret", "ls").splitlines()) > LISTED


def get(archive: Path, socket: Path) -> None:
    """Get a secret as the service does."""
    done = subprocess.run(
        [str(archive), "get", SECRET, "--socket", str(socket)],
        user=UID, group=UID, extra_groups=(), cwd="/", capture_output=True, check=True,
    )  # fmt: skip
    assert len(done.stdout) == VALUE_BYTES


def nothing(python: str) -> None:
    """Start an interpreter and end it."""
    subprocess.run([python, "-I", "-c", "pass"], check=True)


def in_turns(works: Sequence[Callable[[], None]], count: int) -> list[list[float]]:
    """Return milliseconds for each, the first turn left out: it reads the disk."""
    taken: list[list[float]] = [[] for _ in works]
    for turn in range(count + 1):
        for work, found in zip(works, taken, strict=True):
            started = time.perf_counter()
            work()
            if turn:
                found.append((time.perf_counter() - started) * 1_000)
    return taken
