"""Proof that a directory is a tmpfs whose content stays in memory and out of other hands.

Owns the questions asked of the kernel; what is refused is decided by `agent.mounts`. Everything is
asked of an open descriptor, never of a path, so that nothing can be swapped in between. Standard
library only. Source: ADR 0009, tmpfs(5), statfs(2).
"""

import os
import stat
from dataclasses import dataclass

from agent import linux
from agent.linux import MountEntry
from cluster.protocol.checks import Check, Strength, weakest


@dataclass(frozen=True, slots=True)
class MountProof:
    """What the kernel said about one mount."""

    path: str
    checks: tuple[Check, ...]

    @property
    def strength(self) -> Strength:
        """The weakest finding."""
        return weakest(self.checks)

    def findings(self, strength: Strength) -> str:
        """Return the details of all checks of one strength, for a message."""
        return "; ".join(check.detail for check in self.checks if check.strength is strength)


def prove(directory_fd: int, path: str) -> MountProof:
    """Return what is known of the mount whose root `directory_fd` is (open for reading)."""
    entry = linux.mount_of(directory_fd)
    checks = (
        _check_filesystem(directory_fd, entry),
        _check_root(entry, path),
        _check_swap(entry),
        _check_flags(directory_fd),
        _check_size(directory_fd),
        _check_owner(directory_fd),
    )
    return MountProof(path, checks)


def _verdict(name: str, *, good: bool, detail: str, otherwise: str) -> Check:
    if good:
        return Check(name, Strength.SECURE, detail)
    return Check(name, Strength.INSECURE, otherwise)


def _check_filesystem(directory_fd: int, entry: MountEntry | None) -> Check:
    # ramfs and overlayfs can carry any name in mountinfo; f_type comes from the filesystem itself.
    # devtmpfs shares the magic number, so both must agree.
    good = linux.filesystem_magic(directory_fd) == linux.TMPFS_MAGIC
    good = good and entry is not None and entry.fs_type == "tmpfs"
    otherwise = "not a tmpfs; mount one there (mount -t tmpfs, or a volume of driver type tmpfs)"
    return _verdict("filesystem", good=good, detail="tmpfs", otherwise=otherwise)


def _check_root(entry: MountEntry | None, path: str) -> Check:
    # A subdirectory of a shared tmpfs (/tmp, /dev/shm) would leave others inside the same mount.
    good = entry is not None and entry.root == "/" and entry.mount_point == os.path.realpath(path)
    otherwise = "not the root of a mount of its own; give the service a tmpfs of its own"
    return _verdict("root", good=good, detail="a mount of its own", otherwise=otherwise)


def _check_swap(entry: MountEntry | None) -> Check:
    if entry is not None and "noswap" in entry.super_options:
        return Check("swap", Strength.SECURE, "noswap")
    swaps = linux.active_swaps()
    if not swaps:
        detail = "no noswap option; accepted because no swap is active now"
        return Check("swap", Strength.WEAK, detail)
    detail = f"can be swapped out to {', '.join(swaps)}; mount it with noswap, or run swapoff"
    return Check("swap", Strength.INSECURE, detail)


def _check_flags(directory_fd: int) -> Check:
    flags = os.fstatvfs(directory_fd).f_flag
    wanted = {"nosuid": os.ST_NOSUID, "nodev": os.ST_NODEV, "noexec": os.ST_NOEXEC}
    missing = [name for name, bit in wanted.items() if not flags & bit]
    otherwise = f"mounted without {','.join(missing)}; add the option"
    return _verdict("flags", good=not missing, detail="nosuid,nodev,noexec", otherwise=otherwise)


def _check_size(directory_fd: int) -> Check:
    found = os.fstatvfs(directory_fd)
    if found.f_blocks and found.f_files:
        detail = f"{found.f_blocks * found.f_frsize // 1024} KiB, {found.f_files} inodes"
        return Check("size", Strength.SECURE, detail)
    return Check("size", Strength.WEAK, "no limit; mount it with size= and nr_inodes=")


def _check_owner(directory_fd: int) -> Check:
    found = os.fstat(directory_fd)
    mode = stat.S_IMODE(found.st_mode)
    good = found.st_uid == os.geteuid() and not mode & (stat.S_IWGRP | stat.S_IWOTH)
    seen = f"owner {found.st_uid}, mode {mode:04o}"
    otherwise = f"{seen}; mount it with uid={os.geteuid()} and mode=2750"
    return _verdict("owner", good=good, detail=seen, otherwise=otherwise)
