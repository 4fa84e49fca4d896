"""Runs the commands that a person would type, and shows them.

What is printed is what runs: programs are found on the PATH that `. .lab/env` sets. No secret is
ever a word of a command: values come from files or standard input.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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


@dataclass(frozen=True, slots=True)
class Running:
    """A command that runs beside what follows."""

    popen: "subprocess.Popen[str]"
    narrator: Narrator

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.popen.poll() is None

    def finish(self) -> Done:
        """Wait for its end, and show what it printed."""
        try:
            stdout, stderr = self.popen.communicate(timeout=COMMAND_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise LabError("the command in the background did not end in time") from None
        self.narrator.output(stdout + stderr)
        return Done(self.popen.returncode, stdout, stderr)


class Shell:
    """A terminal in which the lab types."""

    def __init__(self, narrator: Narrator, environment: Mapping[str, str], cwd: Path) -> None:
        self._narrator = narrator
        self._environment = dict(environment)
        self._cwd = cwd

    def run(self, *words: str, stdin: Path | None = None) -> Done:
        """Show a command and what it prints, and raise LabError if it fails."""
        done = self.attempt(*words, stdin=stdin)
        if done.code:
            raise LabError(f"`{' '.join(words[:3])}` failed with {done.code}: {done.said.strip()}")
        return done

    def show(self, *words: str) -> None:
        """Show a command that only shows something: left out where nothing is printed."""
        if not self._narrator.is_brief:
            self.run(*words)

    def attempt(self, *words: str, stdin: Path | None = None) -> Done:
        """Show a command and what it prints; it may fail. `stdin`: a file, or nothing is read."""
        self._narrator.command(words, f" < {stdin}" if stdin else "")
        done = self._finished(words, stdin)
        self._narrator.output(done.said)
        return done

    @contextmanager
    def beside(self, *words: str) -> Iterator[Running]:
        """Show a command, and run it beside what the block does; it does not outlive the block."""
        self._narrator.command(words, " &")
        with self._piped(words, subprocess.PIPE) as popen:
            try:
                yield Running(popen, self._narrator)
            finally:
                popen.kill()

    def follow(self, *words: str) -> Iterator[str]:
        """Show a command, and yield each line it prints when it prints it; LabError if it fails."""
        self._narrator.command(words)
        with self._piped(words, subprocess.STDOUT) as process:
            assert process.stdout is not None
            for line in process.stdout:
                self._narrator.output(line)
                yield line.rstrip("\n")
        if process.returncode:
            raise LabError(f"`{' '.join(words[:2])}` failed with {process.returncode}")

    def ask(self, *words: str) -> Any:  # noqa: ANN401  # JSON of some command
        """Return what a command prints as JSON; nothing is shown: it is the lab that looks."""
        done = self._finished((*words, "--format", "json"))
        if done.code:
            raise LabError(f"`{' '.join(words[:3])}` failed with {done.code}: {done.said.strip()}")
        return json.loads(done.stdout)

    def look(self, *words: str) -> Done:
        """Return what a command does; nothing is shown."""
        return self._finished(words)

    def _piped(self, words: Sequence[str], errors: int) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=self._environment,
            cwd=self._cwd,
            text=True,
        )

    def _finished(self, words: Sequence[str], stdin: Path | None = None) -> Done:
        try:
            with Path(stdin or os.devnull).open("rb") as source:
                done = subprocess.run(
                    words,
                    stdin=source,
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
