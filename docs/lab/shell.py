"""Runs the commands that a person would type, and shows them.

What is printed is what runs: programs are found on the PATH that `. .lab/env` sets. No secret is
ever a word of a command: values come from files or standard input.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docs.lab.narrator import Narrator

COMMAND_TIMEOUT_S = 90.0


class LabError(Exception):
    """The lab cannot go on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Done:
    """A finished command."""

    code: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """What it printed, errors last."""
        return self.stdout + self.stderr


class Shell:
    """A terminal in which the lab types."""

    def __init__(self, narrator: Narrator, environment: Mapping[str, str], cwd: Path) -> None:
        self._narrator = narrator
        self._environment = dict(environment)
        self._cwd = cwd

    def run(self, *words: str) -> Done:
        """Show a command and what it prints, and raise LabError if it fails."""
        done = self.attempt(*words)
        if done.code:
            raise LabError(f"`{' '.join(words[:3])}` failed with {done.code}: {done.said.strip()}")
        return done

    def attempt(self, *words: str) -> Done:
        """Show a command and what it prints; it may fail."""
        self._narrator.command(words)
        done = self._finished(words)
        self._narrator.output(done.said)
        return done

    def ask(self, *words: str) -> Any:  # noqa: ANN401  # JSON of some command
        """Return what a command prints as JSON; nothing is shown: it is the lab that looks."""
        done = self._finished((*words, "--format", "json"))
        if done.code:
            raise LabError(f"`{' '.join(words[:3])}` failed with {done.code}: {done.said.strip()}")
        return json.loads(done.stdout)

    def look(self, *words: str) -> Done:
        """Return what a command does; nothing is shown."""
        return self._finished(words)

    def _finished(self, words: Sequence[str]) -> Done:
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=self._environment,
                cwd=self._cwd,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        except FileNotFoundError:
            raise LabError(f"{words[0]} is not installed") from None
        except subprocess.TimeoutExpired:
            raise LabError(f"`{' '.join(words[:3])}` did not end in time") from None
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def environment_of(programs: Path, config: Path, context: str) -> dict[str, str]:
    """Return the environment of the lab's commands and processes: nothing else is passed on."""
    kept = ("HOME", "LANG", "LC_ALL", "TERM", "TZ")
    standard = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "PATH": f"{programs}:{standard}",
        "XDG_CONFIG_HOME": str(config),
        "STRONGROOM_CONTEXT": context,
    }
