"""What lies on a manager's disk, who may read it, and whether the disk will do.

Reads and judges. The one thing it writes is a file without a name, to time a flush; it is gone with
its descriptor. Source: ADR 0005; etcd's own advice on disks (a flush in well under 10 ms).
"""

import os
import stat
from collections.abc import Iterator
from errno import EACCES
from pathlib import Path
from statistics import median
from typing import Final

from cluster.protocol.checks import Check, Strength, either
from cluster.system import Clock

FLUSHES: Final = 20
FLUSH_BYTES: Final = 4_096
SLOW_FLUSH_S: Final = 0.05
"""A median above this delays every write; leases and elections begin to suffer."""
LITTLE_BYTES: Final = 1024**3
TOO_LITTLE_BYTES: Final = 128 * 1024**2
LOOKED_AT: Final = 10_000
"""Files that are looked at; a data directory has some dozens."""
_TMPFS: Final = "tmpfs"
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def directory_checks(
    data_dir: Path, run_dir: Path, unlock_key_file: Path | None, owner: int, clock: Clock
) -> list[Check]:
    """Return what is found in and about a manager's directories; `owner`: the uid it runs as."""
    checks = [
        _private("data directory", data_dir, owner),
        _private("run directory", run_dir, owner),
    ]
    if unlock_key_file is not None:
        checks.append(provider_check(unlock_key_file, data_dir, owner))
    if data_dir.is_dir():
        checks += [_durable(data_dir), space_check(*_space(data_dir)), _flush(data_dir, clock)]
    return checks


def _private(name: str, directory: Path, owner: int) -> Check:
    try:
        wrong = next(_readable_by_others(directory, owner), None)
    except FileNotFoundError:
        return Check(name, Strength.WEAK, f"{directory} is not there; is this manager's elsewhere?")
    except OSError as error:
        return Check(name, Strength.INSECURE, f"{error.filename}: {error.strerror}; run as root")
    return either(
        name,
        good=wrong is None,
        yes=f"{directory} is its owner's alone",
        no=f"{wrong} can be reached by others; give it to the manager's user with mode 0700",
        otherwise=Strength.INSECURE,
    )


def _readable_by_others(directory: Path, owner: int) -> Iterator[str]:
    """Yield what somebody else could open: behind a private directory, only what he owns."""
    top = directory.lstat()
    if not os.access(directory, os.R_OK | os.X_OK):
        raise PermissionError(EACCES, "permission denied", str(directory))
    if not stat.S_ISDIR(top.st_mode) or top.st_mode & _OTHERS or top.st_uid not in {0, owner}:
        yield str(directory)
    looked_at = 0
    for place, _directories, files in os.walk(directory):
        for name in files:
            looked_at += 1
            found = (Path(place) / name).lstat()
            if found.st_uid not in {0, owner}:
                yield f"{place}/{name}"
        if looked_at > LOOKED_AT:
            return


def provider_check(file: Path, data_dir: Path, owner: int) -> Check:
    """Judge the file that unlocks by itself: weak at best."""
    name = "unlock key file"
    try:
        found = file.stat()
    except OSError as error:
        return Check(name, Strength.WEAK, f"{file}: {error.strerror}; the manager stays locked")
    if found.st_mode & _OTHERS or found.st_uid not in {0, owner}:
        return Check(name, Strength.INSECURE, f"others can read {file}; give it mode 0400")
    if data_dir.exists() and found.st_dev == data_dir.stat().st_dev:
        return Check(
            name,
            Strength.INSECURE,
            f"{file} lies on the disk of the data that it opens; keep it on a tmpfs, or unlock "
            "by hand",
        )
    return Check(name, Strength.WEAK, f"whoever reads {file} opens the seal file; unlock by hand")


def _durable(data_dir: Path) -> Check:
    kind = _file_system(data_dir)
    return either(
        "data on disk",
        good=kind != _TMPFS,
        yes=f"on {kind or 'a disk'}",
        no=f"{data_dir} is in memory: a reboot loses this manager's data",
        otherwise=Strength.INSECURE,
    )


def _file_system(directory: Path) -> str:
    """Return the type of the mount that a directory lies on: the longest that holds it."""
    real, best, kind = directory.resolve(), -1, ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4])
        if real.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split()[0]
    return kind


def _space(data_dir: Path) -> tuple[int, int]:
    found = os.statvfs(data_dir)
    return found.f_bavail * found.f_frsize, found.f_favail if found.f_files else -1


def space_check(free_bytes: int, free_files: int) -> Check:
    """Judge what is free; -1 files: the file system counts none."""
    detail = f"{free_bytes // 1024**2} MiB free"
    if free_bytes < TOO_LITTLE_BYTES or free_files in range(100):
        return Check("disk space", Strength.INSECURE, f"{detail}; writes will stop: make room now")
    return either(
        "disk space",
        good=free_bytes >= LITTLE_BYTES,
        yes=detail,
        no=f"{detail}; the engine, its snapshots and the audit's exports grow: make room",
        otherwise=Strength.WEAK,
    )


def _flush(data_dir: Path, clock: Clock) -> Check:
    try:
        times = _flush_times(data_dir, clock)
    except OSError as error:
        return Check("disk flush", Strength.WEAK, f"could not be timed: {error.strerror}")
    return flush_check(times)


def flush_check(times_s: list[float]) -> Check:
    """Judge how long flushes of the disk took."""
    typical, worst = median(times_s) * 1000, max(times_s) * 1000
    detail = f"{typical:.1f} ms, the slowest of {len(times_s)} took {worst:.1f} ms"
    return either(
        "disk flush",
        good=typical <= SLOW_FLUSH_S * 1000,
        yes=detail,
        no=f"{detail}; every write waits for one: use a faster disk for the data directory",
        otherwise=Strength.WEAK,
    )


def _flush_times(data_dir: Path, clock: Clock) -> list[float]:
    descriptor = os.open(data_dir, os.O_TMPFILE | os.O_WRONLY, 0o600)
    times: list[float] = []
    try:
        for number in range(FLUSHES):
            began = clock.monotonic_s()
            os.pwrite(descriptor, bytes(FLUSH_BYTES), number * FLUSH_BYTES)
            os.fdatasync(descriptor)
            times.append(clock.monotonic_s() - began)
    finally:
        os.close(descriptor)
    return times
