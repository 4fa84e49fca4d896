"""Before a lab and after it: a clean place, whatever an earlier one left.

Ends only processes that a lab started, unmounts only below the lab's own runtime directory, and
empties only directories that bear a lab's mark. Raises LabError when a place is not a lab's.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from docs.lab.layout import MARKER, Layout
from docs.lab.processes import end_leftovers
from docs.lab.shell import LabError

_FRESH = ("managers", "nodes", "config", "logs", "scratch")
_TMPFS = "mode=0711,size=32m,nosuid,nodev"
"""Not noexec, as the mounts of services are: a manager's hook is a program in it."""


@contextmanager
def only_lab(layout: Layout) -> Iterator[None]:
    """Hold the right to run a lab in these directories; another one is named and left alone."""
    _refuse_strange(layout.state)
    _refuse_strange(layout.runtime)
    layout.state.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not _locked(descriptor):
            owner = os.pread(descriptor, 32, 0).decode().strip()
            raise LabError(
                f"a lab runs already (pid {owner}); end it with Ctrl-C there, or `kill {owner}`"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_up(layout: Layout) -> bool:
    """Return whether a lab holds these directories now."""
    try:
        descriptor = os.open(layout.lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _locked(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def reset(layout: Layout) -> int:
    """End and remove all that a killed lab left, logs as well; return an exit code.

    Raises LabError while a lab runs.
    """
    with only_lab(layout):
        for found in clear_away(layout):
            sys.stdout.write(f"{found}\n")
        shutil.rmtree(layout.process_files, ignore_errors=True)
        others = sorted(str(entry) for entry in layout.state.iterdir() if entry != layout.lock)
        if others:
            raise LabError(f"{others[0]} is none of the lab's; all else is gone")
        layout.lock.unlink()
        layout.state.rmdir()
    sys.stdout.write(f"{layout.state} and {layout.runtime} are gone\n")
    return 0


def clear_away(layout: Layout) -> list[str]:
    """End and remove what an earlier lab left; return what was found, for a person."""
    layout.process_files.mkdir(parents=True, exist_ok=True)
    found = [f"ended {name}" for name in end_leftovers(layout.process_files)]
    found += [f"unmounted {path}" for path in unmount_below(layout.runtime)]
    _remove_runtime(layout.runtime)
    for part in _FRESH:
        shutil.rmtree(layout.state / part, ignore_errors=True)
    (layout.state / "env").unlink(missing_ok=True)
    return found


def prepare(layout: Layout, *, mounts: bool) -> None:
    """Make the directories; the runtime directory is memory where the lab may mount."""
    for part in _FRESH[:-1]:
        (layout.state / part).mkdir(mode=0o700, parents=True, exist_ok=True)
    # A stranger's directory of this name would be a stranger's trap: `mkdir` fails then.
    layout.runtime.mkdir(mode=0o711)
    if mounts:
        command = ["mount", "-t", "tmpfs", "strongroom-lab", str(layout.runtime), "-o"]
        best = subprocess.run([*command, f"{_TMPFS},noswap"], capture_output=True, check=False)
        if best.returncode:
            subprocess.run([*command, _TMPFS], check=True)
    layout.runtime.chmod(0o711)
    (layout.runtime / MARKER).touch()
    layout.private.mkdir(mode=0o700)
    layout.apps.mkdir()
    layout.apps.chmod(0o755)


def remove_all(layout: Layout, *, keep: bool) -> None:
    """Remove what a finished lab leaves: everything but the logs, or with `keep` the mounts."""
    unmount_below(layout.runtime)
    _remove_runtime(layout.runtime)
    if keep:
        return
    for part in (*_FRESH, "processes"):
        if part != "logs":
            shutil.rmtree(layout.state / part, ignore_errors=True)
    (layout.state / "env").unlink(missing_ok=True)


def give_back(layout: Layout, *, everything: bool = False) -> None:
    """Under sudo, give the user who called it what a second terminal needs, at the end all."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() != 0 or not (uid.isdigit() and gid.isdigit()):
        return
    shared = [layout.state / "env", layout.config, *layout.config.rglob("*")]
    for path in (layout.state, *(layout.state.rglob("*") if everything else shared)):
        with suppress(FileNotFoundError):
            os.chown(path, int(uid), int(gid), follow_symlinks=False)


def unmount_below(directory: Path) -> list[str]:
    """Detach every mount at and below a directory, the deepest first; return their places."""
    places = [place for place in _mount_points() if Path(place).is_relative_to(directory)]
    for place in sorted(places, key=len, reverse=True):
        subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)
    return places


def _refuse_strange(directory: Path) -> None:
    """Raise LabError for a directory with anything in it that no lab put there: it is emptied."""
    if not directory.exists():
        return
    if directory.is_symlink() or directory.stat().st_uid not in {os.geteuid(), *_sudo_caller()}:
        raise LabError(f"{directory} belongs to somebody else; name another directory")
    if any(directory.iterdir()) and not (directory / MARKER).exists():
        raise LabError(f"{directory} holds files of others, and a lab removes what is in there")


def _sudo_caller() -> set[int]:
    uid = os.environ.get("SUDO_UID", "")
    return {int(uid)} if os.geteuid() == 0 and uid.isdigit() else set()


def _remove_runtime(runtime: Path) -> None:
    if not runtime.exists():
        return
    if unmount_below(runtime):
        raise LabError(f"a mount below {runtime} cannot be taken away; see /proc/mounts")
    shutil.rmtree(runtime)


def _mount_points() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4].encode().decode("unicode_escape") for line in lines]
