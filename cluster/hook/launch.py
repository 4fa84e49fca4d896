"""The few lines between fork and exec of a hook: it must not outlive the manager.

Run by path, by the manager's own interpreter, as `launch.py PARENT_PID PROGRAM`; imports nothing of
ours. Source: prctl(2), PR_SET_PDEATHSIG; execve keeps it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The whole environment of a hook."""
NOT_STARTED = 126
"""Exit status where the manager was gone before, or the program cannot be executed."""


def main() -> None:
    """Tie this process to its parent, then become the hook."""
    parent_pid, program = sys.argv[1:]
    refused = ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if refused or os.getppid() != int(parent_pid):
        sys.exit(NOT_STARTED)
    # An interpreter ignores it, and the hook would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execve(program, [program], {"PATH": PATH})  # noqa: S606  # checked by the hook directory
    except OSError:
        sys.exit(NOT_STARTED)


if __name__ == "__main__":
    main()
