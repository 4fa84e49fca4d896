"""The commands as a person types them: `strongroom` and `strongroom-agent`, run as processes."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.running import SCRIPTS, Process

RUN_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Done:
    """A finished command."""

    code: int
    stdout: str
    stderr: str


class CommandLine:
    """An operator's shell: a home of its own, and what was typed in it."""

    def __init__(self, home: Path, env: Mapping[str, str] | None = None) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.env = {**(env or os.environ), "HOME": str(home), "XDG_CONFIG_HOME": str(home)}
        self.env.pop("STRONGROOM_CONTEXT", None)

    def run(self, *words: str, stdin: bytes = b"", program: str = "strongroom") -> Done:
        """Run a command to its end."""
        done = subprocess.run(
            [str(SCRIPTS / program), *words],
            input=stdin, capture_output=True, env=self.env, cwd=self.home,
            timeout=RUN_TIMEOUT_S, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *words: str, stdin: bytes = b"", program: str = "strongroom") -> str:
        """Run a command that must succeed; return what it printed."""
        done = self.run(*words, stdin=stdin, program=program)
        assert done.code == 0, (words, done)
        return done.stdout

    def json(self, *words: str, stdin: bytes = b"") -> Any:  # noqa: ANN401  # as deep as the answer
        """Run a command with `--format json` and return its answer."""
        return json.loads(self.ok(*words, "--format", "json", stdin=stdin))

    def refused(self, code: int, *words: str, stdin: bytes = b"") -> str:
        """Run a command that must end with `code` and no result; return its error lines."""
        done = self.run(*words, stdin=stdin)
        assert done.code == code, (words, done)
        assert done.stderr.startswith("strongroom: "), done
        return done.stderr

    def start(self, *words: str, program: str = "strongroom") -> Process:
        """Start a command and return it running; its log holds all it prints."""
        process = Process(
            words[0], [str(SCRIPTS / program), *words], self.home / f"{words[0]}.log", self.env
        )
        process.start()
        return process
