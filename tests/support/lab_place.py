"""A place of its own for a lab that a test runs: directories, ports, and how to start one there."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from docs.lab import ports
from docs.lab.layout import Layout
from tests.support.etcd_cluster import need_etcd

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where one lab of a test runs, apart from any other."""

    root: Path
    port: int

    @property
    def layout(self) -> Layout:
        return Layout(REPOSITORY, self.root / "state", self.root / "run", self.port)

    def command(self, *words: str, repository: Path = REPOSITORY) -> list[str]:
        layout = self.layout
        script = str(repository / "docs" / "lab" / "lab.py")
        where = ["--directory", str(layout.state), "--runtime", str(layout.runtime)]
        return [sys.executable, script, *where, "--port", str(self.port), *words]

    def run(self, *words: str, repository: Path = REPOSITORY) -> "subprocess.CompletedProcess[str]":
        return finished(self.command("--once", *words, repository=repository))

    def left_behind(self) -> list[str]:
        """Return mounts, processes and files that a finished lab should have taken away."""
        found = [str(path) for path in (self.layout.runtime, self.layout.config) if path.exists()]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found += [line for line in mounts if str(self.root) in line]
        for process in Path("/proc").iterdir():
            try:
                words = (process / "cmdline").read_bytes() if process.name.isdigit() else b""
            except OSError:
                continue
            if str(self.root).encode() in words:
                found.append(words.decode())
        return found


@contextmanager
def lab_place() -> Iterator[Place]:
    """Yield a place with a short path, because of unix sockets, that every uid can enter."""
    need_etcd()
    root = Path(tempfile.mkdtemp(prefix="sr-lab-"))
    root.chmod(0o711)
    yield Place(root, free_ports())
    shutil.rmtree(root)


def free_ports() -> int:
    for port in range(19_000, 30_000, 50):
        if not ports.busy(range(port, port + 40)):
            return port
    pytest.fail("no free ports")


def finished(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
