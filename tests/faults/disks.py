"""A manager's disk: ext4 on a loop device, so that its power can be cut, and it can fill up or turn
read-only.

`cut_power` is FS_IOC_SHUTDOWN without a flush of the log: whatever was not made durable is gone
after the next mount, and until then every access fails with EIO, as on a disk that broke.
"""

import contextlib
import fcntl
import os
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent import linux

FS_IOC_SHUTDOWN: Final = 0x8004587D
NO_LOG_FLUSH: Final = 2
PATIENCE_S: Final = 90.0
"""Longer than any command of a service may take, which has a copy of every mount."""


def enter_own_mounts() -> None:
    """Give this process mounts of its own; call it before any thread is started.

    Whatever else runs on the machine and takes a copy of its mounts would hold a disk that is to
    be mounted anew.
    """
    assert threading.active_count() == 1, "threads would stay behind among the machine's mounts"
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)


@dataclass(slots=True)
class LoopDisk:
    """An ext4 file system in a sparse file, mounted at `mount_point`."""

    image: Path
    mount_point: Path
    size_mb: int = 700

    def create(self) -> None:
        """Make it and mount it."""
        with self.image.open("wb") as image:
            image.truncate(self.size_mb << 20)
        _run("mkfs.ext4", "-qF", "-E", "lazy_itable_init=1,nodiscard", str(self.image))
        self.mount_point.mkdir(parents=True, exist_ok=True)
        self.mount()

    def mount(self) -> None:
        """Mount it; the loop device goes with the mount."""
        _run("mount", "-o", "loop", str(self.image), str(self.mount_point))

    def unmount(self) -> None:
        """Unmount it, as soon as the processes that used it are gone."""
        deadline = time.monotonic() + PATIENCE_S
        while os.path.ismount(self.mount_point):
            done = subprocess.run(["umount", self.mount_point], capture_output=True, check=False)
            if done.returncode != 0:
                assert time.monotonic() < deadline, done.stderr.decode()
                time.sleep(0.1)
        # A command of a service that just starts may have a copy of every mount; as long as it has,
        # mounting anew would bring the very same file system back, shut down as it is.
        while self._has_device():
            assert time.monotonic() < deadline, (
                f"{self.image} is still in use by {' '.join(self._holders())}"
            )
            time.sleep(0.1)

    def _has_device(self) -> bool:
        done = subprocess.run(["losetup", "-j", self.image], capture_output=True, check=False)
        return bool(done.stdout.strip())

    def _holders(self) -> Iterator[str]:
        """Yield the processes that have a copy of the mount."""
        for table in Path("/proc").glob("[0-9]*/mountinfo"):
            with contextlib.suppress(OSError):
                if str(self.mount_point) in table.read_text():
                    yield f"{table.parent.name} ({(table.parent / 'comm').read_text().strip()})"

    def cut_power(self) -> None:
        """Lose what was not flushed; every access fails until it is mounted again."""
        directory = os.open(self.mount_point, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(directory, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(directory)

    def fill(self) -> None:
        """Take all that is free, so that the next write meets ENOSPC."""
        with (self.mount_point / "filler").open("wb", buffering=0) as filler:
            for size in (1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        filler.write(bytes(size))

    def free(self) -> None:
        """Give back what `fill` took."""
        (self.mount_point / "filler").unlink(missing_ok=True)

    def set_read_only(self) -> bool:
        """Make it read-only as the kernel does after an error; say whether that was possible."""
        # An open writer makes an ordinary remount fail; `abort` is what an error on the disk does.
        done = subprocess.run(
            ["mount", "-o", "remount,abort,ro", self.mount_point],
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def remount(self) -> None:
        """Mount it anew, as after a restart of the machine; its users must be gone."""
        self.unmount()
        self.mount()


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr.decode()}"
