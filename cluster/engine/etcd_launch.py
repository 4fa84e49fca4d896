"""The few lines between fork and exec of the etcd member: it must not outlive the manager.

Run by path, by the manager's own interpreter, as `etcd_launch.py PARENT_PID PROGRAM ARGUMENT...`;
imports nothing of ours. Done here and not between fork and exec of a threaded process, where Python
code may meet a lock nobody releases. Source: prctl(2), PR_SET_PDEATHSIG; the signal is sent when
the thread that started us ends, and execve keeps it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
ORPHANED = 125
"""Exit status when the manager was gone before the signal was set, or the kernel refused it."""


def main() -> None:
    """Tie this process to its parent, then become the program."""
    parent_pid, *command = sys.argv[1:]
    refused = ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if refused or os.getppid() != int(parent_pid):
        sys.exit(ORPHANED)
    os.execv(command[0], command)  # noqa: S606  # the configured program


if __name__ == "__main__":
    main()
