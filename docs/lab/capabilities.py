"""What this machine lets the lab show, found by trying and not by asking who one is.

Owns the probes and the reasons in words. `isolation`: services with uids and namespaces of their
own. `delivery`: secrets on a tmpfs that cannot reach a disk; where the lab may not mount on the
machine itself it may in a user namespace, whose tmpfs is accepted only while no swap is active.
"""

import subprocess
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from docs.lab.layout import PYTHON

_TIMEOUT_S = 20.0
_OLDEST_PYTHON = "import sys; sys.exit(sys.version_info < (3, 11))"
_SERVICE_UID = ("setpriv", "--reuid=64101", "--regid=64101", "--clear-groups")
_OPTIONS = "size=64k,nosuid,nodev,noexec"


class Means(StrEnum):
    """How agents come by their tmpfs."""

    KERNEL = "kernel mounts"
    USER_NAMESPACE = "given volumes in a user namespace"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What can be shown; a reason is empty where it can."""

    means: Means
    delivery: str
    """Why no secret can be delivered."""
    isolation: str
    """Why no service can be isolated."""


def probe() -> Capabilities:
    """Return what can be shown on this machine, to this user."""
    if _fails([PYTHON, "-I", "-c", _OLDEST_PYTHON]):
        reason = f"{PYTHON} is missing or older than 3.11, and the applications run on it"
        return Capabilities(Means.NONE, reason, reason)
    refusal = _fails(["unshare", "--mount", "--ipc", "--pid", "--fork", *_mount("noswap")])
    if refusal and not _active_swaps():
        refusal = _fails(["unshare", "--mount", "--ipc", "--pid", "--fork", *_mount()])
    refusal = refusal or _fails([*_SERVICE_UID, "true"])
    if not refusal:
        return Capabilities(Means.KERNEL, "", "")
    isolation = f"no right to mount and to change uids here ({refusal})"
    if _active_swaps():
        reason = f"only swappable tmpfs can be had here ({refusal}), and swap is active"
        return Capabilities(Means.NONE, reason, isolation)
    if _fails(["unshare", "--user", "--map-root-user", "--mount", *_mount()]):
        reason = f"no tmpfs can be mounted here, in a user namespace neither ({refusal})"
        return Capabilities(Means.NONE, reason, isolation)
    return Capabilities(Means.USER_NAMESPACE, "", isolation)


def _mount(*options: str) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", ",".join((_OPTIONS, *options)), "strongroom-lab", "/mnt"]


def _fails(command: list[str]) -> str:
    """Return why a command fails, or nothing."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}"
    if done.returncode == 0:
        return ""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[-1] if said else f"{command[0]} ended with {done.returncode}"


def _active_swaps() -> list[str]:
    try:
        lines = Path("/proc/swaps").read_text().splitlines()[1:]
    except OSError:
        return []
    return [line.split()[0] for line in lines]
