"""What the kernel says of a manager's machine: swap, memory locks, core dumps, the clock.

Reads and judges; changes nothing. Source: proc(5), adjtimex(2), core(5).
"""

import ctypes
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cluster.protocol.checks import Check, Strength, either

_TIME_ERROR: Final = 5
_CAP_IPC_LOCK: Final = 14
_CORE: Final = "Max core file size"


def machine_checks() -> list[Check]:
    """Return what the kernel says now."""
    return [check() for check in _CHECKS]


def swap_check(swaps: str) -> Check:
    """Judge the content of /proc/swaps."""
    active = [line.split()[0] for line in swaps.splitlines()[1:]]
    no = (
        f"active on {', '.join(active)}; a manager's memory is locked where that is permitted, "
        "other programs' is not: turn swap off, or encrypt it with a random key"
    )
    return either("swap", good=not active, yes="none", no=no, otherwise=Strength.WEAK)


def core_dump_check(pattern: str, limits: str) -> Check:
    """Judge where other programs' dumps go, by core_pattern and the limits of a process; a manager
    turns its own off."""
    limit = next(line for line in limits.splitlines() if line.startswith(_CORE)).split()[4]
    piped = pattern.startswith("|")
    where = "a program" if piped else "a file"
    return either(
        "core dumps",
        good=limit == "0" and not piped,
        yes="off",
        no=f"other programs' dumps go to {where} ({pattern}); the manager turns its own off",
        otherwise=Strength.WEAK,
    )


def _swap() -> Check:
    return swap_check(Path("/proc/swaps").read_text())


def _core_dumps() -> Check:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    # Of the shell: this process has turned its own off.
    return core_dump_check(pattern, Path(f"/proc/{os.getppid()}/limits").read_text())


def _memory_lock() -> Check:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    no = f"limited to {limit // 1024} KiB; allow CAP_IPC_LOCK or raise LimitMEMLOCK"
    return either(
        "memory lock",
        good=limit == resource.RLIM_INFINITY or _may_lock_memory(),
        yes="permitted to this shell; a service has the limits of its unit",
        no=no,
        otherwise=Strength.WEAK,
    )


def _may_lock_memory() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_IPC_LOCK & 1)
    return False


def _clock() -> Check:
    libc = ctypes.CDLL(None, use_errno=True)
    good = libc.adjtimex(ctypes.create_string_buffer(512)) not in {-1, _TIME_ERROR}
    no = "nothing disciplines it; certificates and leases rest on it: run chrony or timesyncd"
    return either("clock", good=good, yes="synchronised", no=no, otherwise=Strength.WEAK)


_CHECKS: tuple[Callable[[], Check], ...] = (_swap, _memory_lock, _core_dumps, _clock)
