"""Real mounts for tests: made under a test's own directory and always taken away again."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agent import linux

MEMORY_ONLY = "size=256k,nr_inodes=64,noswap,nosuid,nodev,noexec"
"""Options of a tmpfs that is accepted, less its owner and mode."""


def require_mounting() -> None:
    """Skip (in CI: fail) where this process may not mount."""
    if not linux.has_capability(linux.CAP_SYS_ADMIN):
        pytest.skip("needs CAP_SYS_ADMIN to mount a tmpfs")


@contextmanager
def reachable_directory() -> Iterator[Path]:
    """Yield a directory that every uid can enter (pytest's own are closed to all but root)."""
    with tempfile.TemporaryDirectory(prefix="strongroom-test-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        yield directory


@contextmanager
def mounts_taken_away(directory: Path) -> Iterator[Path]:
    """Yield `directory` and detach everything mounted under it afterwards."""
    require_mounting()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield directory
    finally:
        for entry in reversed(linux.mount_table()):
            if Path(entry.mount_point).is_relative_to(directory.resolve()):
                with suppress(OSError):
                    linux.unmount(entry.mount_point, linux.MNT_DETACH)


def mount_filesystem(path: Path, fs_type: str, options: str) -> Path:
    """Mount a filesystem with mount(8), as an operator would."""
    path.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", fs_type, "-o", options, "test", str(path)]
    subprocess.run(command, check=True)
    return path


def run_in_private_mounts(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python script in a mount namespace of its own."""
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", script]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
