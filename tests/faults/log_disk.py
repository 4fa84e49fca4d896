"""A disk of its own for the engine's write-ahead log, which breaks while the rest goes on.

The log moves there and back while its manager is stopped, so that the manager meets nothing but an
engine that ended. And a disk that goes away: where it was mounted, an empty directory is left.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent import linux
from tests.faults.cluster import FaultManager
from tests.faults.disks import LoopDisk
from tests.faults.leases import engine_answers
from tests.support.frozen import freeze_process
from tests.support.running import Process

if TYPE_CHECKING:
    from tests.faults.nemesis import Nemesis

LOG_MB: Final = 480
"""The engine keeps up to four pieces of 64 MB, taken in advance."""
STARTS_S: Final = 30.0
ENDS_S: Final = 15.0
"""How long an engine may take to meet its broken log: it does so at the next write."""
POLL_S: Final = 0.05
RUNNING: Final = 0.75
"""The share of logs that break once the engine serves, and not while it still reads them."""


@dataclass(slots=True)
class LogDisk:
    """A loop device that takes a write-ahead log in, and gives it back."""

    log: Path
    """The directory of the log; no engine may run while it moves."""
    image: Path

    @property
    def disk(self) -> LoopDisk:
        """The device, mounted in place of the directory."""
        return LoopDisk(self.image, self.log, LOG_MB)

    @property
    def _aside(self) -> Path:
        return self.log.with_name("log-aside")

    def move_out(self) -> None:
        """Put the log on the device."""
        self.log.rename(self._aside)
        self.disk.create()
        self._copy(self._aside, self.log)
        subprocess.run(["rm", "-r", self._aside], check=True)

    def move_back(self) -> None:
        """Take the log back as it is on the device after a restart of the machine."""
        self.disk.remount()
        self._aside.mkdir(mode=0o700)
        self._copy(self.log, self._aside)
        self.disk.unmount()
        self.log.rmdir()
        self._aside.rename(self.log)
        subprocess.run(["sync", "-f", self.log.parent], check=True)
        self.image.unlink()

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        pieces = [one for one in source.iterdir() if one.is_file()]
        subprocess.run(["cp", "-a", "--sparse=always", *pieces, target], check=True)
        for piece in filter(Path.is_file, target.iterdir()):
            with piece.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, max(piece.stat().st_size, 1))
        subprocess.run(["sync", "-f", target], check=True)


def log_of(manager: FaultManager) -> Path:
    """Return where a manager's engine has its write-ahead log."""
    return manager.base / "disk/data/engine/member/member/wal"


@contextlib.contextmanager
def log_eio(nemesis: "Nemesis") -> Iterator[str]:
    """Every write and fsync of one engine's log fails, while its database and its manager's files
    are well; later the log is there again as far as it was durable."""
    struck = nemesis.managers(1)[0]
    log = LogDisk(log_of(struck), struck.base / "log.img")
    with engine_stopped(struck):
        log.move_out()
    engine = _engine_on(nemesis, struck)
    if nemesis.random.random() < RUNNING:
        _serving(nemesis, struck)
    log.disk.cut_power()
    began = time.monotonic()
    while engine and _uses(engine, log.log) and time.monotonic() < began + ENDS_S:
        time.sleep(POLL_S)
    ended = "ended" if engine and not _uses(engine, log.log) else "wrote nothing"
    yield f"{struck.name}, whose engine {ended}"
    with engine_stopped(struck):
        log.move_back()


@contextlib.contextmanager
def disk_gone(nemesis: "Nemesis") -> Iterator[str]:
    """A manager's whole disk goes away under it, as systemd unmounts what a lost device carried,
    and its engine ends; later the machine is restarted with the disk in its place."""
    struck = nemesis.managers(1)[0]
    with engine_stopped(struck):
        struck.disk.cut_power()
        linux.unmount(str(struck.disk.mount_point), linux.MNT_DETACH)
    yield struck.name
    struck.wanted = False
    engines = struck.children() if struck.running else []
    struck.kill()
    while any(map(_runs, engines)):
        time.sleep(POLL_S)
    begun = list(log_of(struck).glob("*.wal"))
    assert not begun, f"{struck.name}'s engine began anew where its disk had been"
    for left in struck.disk.mount_point.iterdir():
        shutil.rmtree(left)
    struck.disk.remount()
    Process.start(struck)
    struck.wanted = True


@contextlib.contextmanager
def engine_stopped(manager: FaultManager) -> Iterator[None]:
    """Stop a manager, and end its engine meanwhile; the manager starts it again."""
    manager.wanted = False
    pid = manager.pid if manager.running else 0
    if pid:
        freeze_process(pid)
    try:
        children = manager.children() if pid else []
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        for child in children:
            while _runs(child):
                time.sleep(POLL_S)
        yield
    finally:
        if pid:
            os.kill(pid, signal.SIGCONT)
        manager.wanted = True


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _engine_on(nemesis: "Nemesis", manager: FaultManager) -> int:
    """Wait until a manager's engine has its log open; return its pid, 0 if it does not start."""
    until = time.monotonic() + STARTS_S
    while time.monotonic() < until:
        for child in manager.children() if manager.running else []:
            if _uses(child, log_of(manager)):
                return child
        nemesis.rest(POLL_S)
    return 0


def _serving(nemesis: "Nemesis", manager: FaultManager) -> None:
    """Wait until a manager's engine answers with a quorum."""
    until = time.monotonic() + STARTS_S
    while not engine_answers(manager) and time.monotonic() < until:
        nemesis.rest(POLL_S)


def _uses(pid: int, directory: Path) -> bool:
    """Return whether a process has a file in a directory open."""
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            if link.readlink().is_relative_to(directory):
                return True
    return False
