"""Stops a process where it is, and says so only once it stands still."""

import os
import signal
import time
from pathlib import Path

POLL_S = 0.001
STOPPED = frozenset("TtDZX")
"""The states of a thread that runs no more: stopped, traced, dead; one in the kernel's hands (D)
stops before it comes back."""


def freeze_process(pid: int) -> None:
    """Stop a process and wait until each of its threads has.

    SIGSTOP returns at once, while threads on other cores still run: a member that was only just
    told to stop may answer one more read.

    Raises:
        ProcessLookupError: there is no such process.
    """
    os.kill(pid, signal.SIGSTOP)
    while not all(state in STOPPED for state in _thread_states(pid)):
        time.sleep(POLL_S)


def _thread_states(pid: int) -> list[str]:
    states: list[str] = []
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            stat = task.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The name in parentheses may itself hold spaces and parentheses.
        states.append(stat.rpartition(")")[2].split()[0])
    return states
