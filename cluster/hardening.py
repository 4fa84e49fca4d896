"""What a manager does to its own process before it holds a key: no core dumps, no debugger of the
same user, no swap; and as many descriptors as it may have.

Each measure is taken where it is permitted; what was not possible is logged, and is a line in the
threat model.
"""

import ctypes
import resource
from typing import Final

import structlog

log = structlog.get_logger(__name__)

PR_SET_DUMPABLE: Final = 4
MCL_CURRENT_FUTURE_ONFAULT: Final = 1 | 2 | 4
"""ONFAULT: without it every thread's whole stack is locked into memory."""


def harden() -> None:
    """Take every measure that is permitted."""
    # A connection is a descriptor; the usual soft limit of 1,024 is for programs that use select().
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    libc = ctypes.CDLL(None, use_errno=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        log.warning("hardening.dumpable_failed", errno=ctypes.get_errno())
    if libc.mlockall(MCL_CURRENT_FUTURE_ONFAULT) != 0:
        log.warning("hardening.mlock_not_permitted", errno=ctypes.get_errno())
