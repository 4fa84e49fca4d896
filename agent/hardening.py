"""Keeping the agent's own memory out of dumps, debuggers and swap.

Owns the settings of this process and says what it got; it never fails the start, because a
container may forbid part of it, and `doctor` and `status` show what is weak. Standard library only.
"""

import resource

from agent import linux
from cluster.protocol.checks import Check, Strength


def harden_process() -> tuple[Check, ...]:
    """Turn off core dumps and debugging, and lock memory; return what was reached."""
    return (_forbid_dumps(), _lock_memory())


def _forbid_dumps() -> Check:
    # A hard limit of 1 dumps as little as 0 does, and leaves `agent.launch` its limit of 1, which
    # it could not raise again when the agent runs a service's command.
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(
        resource.RLIMIT_CORE, (0, 1 if hard == resource.RLIM_INFINITY else min(1, hard))
    )
    # Not dumpable: no dump through a piped core_pattern either, no ptrace by the same uid, and
    # /proc/PID/mem and environ belong to root.
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    return Check("core dumps", Strength.SECURE, "off; the process cannot be traced by its own uid")


def _lock_memory() -> Check:
    try:
        linux.lock_memory()
    except OSError as error:
        swaps = linux.active_swaps()
        detail = f"mlockall: {error.strerror}; allow CAP_IPC_LOCK or raise LimitMEMLOCK"
        if swaps:
            return Check("memory lock", Strength.WEAK, f"{detail}; swap is active")
        return Check("memory lock", Strength.WEAK, f"{detail}; no swap is active now")
    return Check("memory lock", Strength.SECURE, "memory stays out of swap")
