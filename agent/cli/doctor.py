"""`strongroom-agent doctor`: what this node can protect, check by check.

Looks and changes nothing. Exit code 1 when something is insecure.
"""

import argparse
import json
import os
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from agent import linux, seccomp
from agent.cli.exit_codes import FAILED
from agent.cli.printing import tell
from agent.mount_proof import prove
from cluster.protocol.checks import Check, Strength, either, weakest

_OLDEST_KERNEL = (5, 12)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `doctor`."""
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument(
        "--volume",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="also prove this given volume (repeatable)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print every finding; return 1 if the weakest is insecure."""
    checks = [check() for check in _CHECKS]
    for volume in arguments.volume:
        checks += _volume_checks(volume)
    if arguments.format == "json":
        code = tell(json.dumps([asdict(check) for check in checks]) + "\n")
    else:
        lines = (f"{check.strength:<9} {check.name:<14} {check.detail}\n" for check in checks)
        code = tell("".join(lines))
    return FAILED if weakest(checks) is Strength.INSECURE else code


def _kernel() -> Check:
    release = os.uname().release
    numbers = release.split("-")[0].split(".")[:2]
    good = tuple(int(number) for number in numbers) >= _OLDEST_KERNEL
    no = f"Linux {release}; kernel mounts and exec need 5.12, given volumes work"
    return either("kernel", good=good, yes=f"Linux {release}", no=no, otherwise=Strength.WEAK)


def _capabilities() -> Check:
    return either(
        "capabilities",
        good=linux.has_capability(linux.CAP_SYS_ADMIN),
        yes="may mount: kernel mounts and exec work",
        no="may not mount (CAP_SYS_ADMIN); each service needs a given volume, and exec is off",
        otherwise=Strength.WEAK,
    )


def _noswap() -> Check:
    try:
        os.close(linux.new_tmpfs("strongroom-doctor", {"noswap": None}, linux.ATTR_CLOSED))
    except PermissionError:
        return Check("tmpfs noswap", Strength.WEAK, "cannot be tried without CAP_SYS_ADMIN")
    except OSError:
        strength = Strength.INSECURE if linux.active_swaps() else Strength.WEAK
        return Check(
            "tmpfs noswap", strength, "not known to this kernel (Linux 6.4); keep swap off"
        )
    return Check("tmpfs noswap", Strength.SECURE, "supported")


def _swap() -> Check:
    swaps = ", ".join(linux.active_swaps())
    no = f"active on {swaps}; memory that is not locked can reach it"
    return either("swap", good=not swaps, yes="none", no=no, otherwise=Strength.WEAK)


def _memory_lock() -> Check:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    good = limit == resource.RLIM_INFINITY or linux.has_capability(linux.CAP_IPC_LOCK)
    no = f"limited to {limit // 1024} KiB; allow CAP_IPC_LOCK or raise LimitMEMLOCK"
    return either("memory lock", good=good, yes="permitted", no=no, otherwise=Strength.WEAK)


def _core_dumps() -> Check:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    where = "a program" if pattern.startswith("|") else "a file"
    limit = resource.getrlimit(resource.RLIMIT_CORE)[0]
    no = f"other programs' dumps go to {where} ({pattern}); the agent and exec turn theirs off"
    good = limit == 0 and not pattern.startswith("|")
    return either("core dumps", good=good, yes="off", no=no, otherwise=Strength.WEAK)


def _peer_liveness() -> Check:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    pidfd = None
    with ours, theirs, suppress(OSError):
        pidfd = linux.peer_pidfd(ours)
    if pidfd is not None:
        os.close(pidfd)
    no = "SO_PEERPIDFD is missing (Linux 6.5); the socket's path and uid stand alone"
    return either(
        "attestation",
        good=pidfd is not None,
        yes="SO_PEERPIDFD proves a living peer",
        no=no,
        otherwise=Strength.WEAK,
    )


def _seccomp() -> Check:
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    good = seccomp.is_supported() and actions.exists() and "errno" in actions.read_text()
    no = f"no filter for {os.uname().machine} or none in this kernel; exec goes without"
    return either("seccomp", good=good, yes="supported", no=no, otherwise=Strength.WEAK)


def _clock() -> Check:
    no = "nothing disciplines it; certificates and leases rest on it: run chrony or timesyncd"
    good = linux.clock_is_synchronised()
    return either("clock", good=good, yes="synchronised", no=no, otherwise=Strength.WEAK)


def _volume_checks(volume: Path) -> list[Check]:
    try:
        directory = os.open(volume, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        return [Check(str(volume), Strength.INSECURE, f"{error.strerror}")]
    try:
        proof = prove(directory, str(volume))
    finally:
        os.close(directory)
    return [Check(f"{volume} {c.name}", c.strength, c.detail) for c in proof.checks]


_CHECKS: tuple[Callable[[], Check], ...] = (
    _kernel,
    _capabilities,
    _noswap,
    _swap,
    _memory_lock,
    _core_dumps,
    _peer_liveness,
    _seccomp,
    _clock,
)
