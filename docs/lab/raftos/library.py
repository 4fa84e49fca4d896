"""Where raftos is installed: a venv of its own below build/, from its own lock.

Without the index of a bundle pip asks the one that it is configured for. raftos is a source
archive of 2017: it is built with the setuptools of this checkout's venv.
"""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from docs.lab.bundle import RAFTOS_LOCK, RAFTOS_OPTIONS, WHEELS

_STAMP = ".strongroom-exhibit"
_TIMEOUT_S = 300.0


class Library:
    """raftos' venv in a checkout."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._venv = repository / "build" / "raftos-venv"

    @property
    def python(self) -> Path:
        """The interpreter that has raftos."""
        return self._venv / "bin" / "python"

    @property
    def is_current(self) -> bool:
        """Whether what is installed is what the lock says, for this Python and place."""
        try:
            return (self._venv / _STAMP).read_text() == self._key()
        except FileNotFoundError:
            return False

    def commands(self) -> list[list[str]]:
        """Return what makes the venv."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = self._venv / "lib" / version / "site-packages"
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        return [
            [sys.executable, "-m", "venv", "--clear", "--without-pip", str(self._venv)],
            [*pip, *RAFTOS_OPTIONS, "--requirement", RAFTOS_LOCK, "--target", str(packages)],
        ]

    def install(self) -> str:
        """Make the venv, and return why that failed, or nothing."""
        environment = dict(os.environ)
        if (self._repository / WHEELS).is_dir():
            environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": WHEELS}
        for command in self.commands():
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=environment,
                cwd=self._repository,
                timeout=_TIMEOUT_S,
                check=False,
            )
            if done.returncode:
                told = done.stderr.strip().splitlines()
                return told[-1] if told else f"exit code {done.returncode}"
        (self._venv / _STAMP).write_text(self._key())
        return ""

    def _key(self) -> str:
        lock = (self._repository / RAFTOS_LOCK).read_bytes()
        return f"{sha256(lock).hexdigest()} {sys.version} {self._venv}"
