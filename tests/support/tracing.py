"""Whether a process's memory is open to another of its own user: what PR_SET_DUMPABLE decides.

Root reads everything by CAP_SYS_PTRACE. So the question is put by a process of the same user with
the same rights, but for that one: it keeps it permitted, which is compared with the other's rights,
and not effective, which is asked for where a process is not dumpable (`__ptrace_may_access` in the
kernel, with `PTRACE_MODE_READ_REALCREDS`).
"""

import platform
import subprocess
import sys
from typing import Final

_GET_ROBUST_LIST: Final = {"x86_64": 274, "aarch64": 100}
_ASKING: Final = """
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
CAP_SYS_PTRACE, VERSION_3 = 19, 0x20080522
header, data = (ctypes.c_uint32 * 2)(VERSION_3, 0), (ctypes.c_uint32 * 6)()
assert libc.capget(header, data) == 0
data[0] &= ~(1 << CAP_SYS_PTRACE)  # the lower half of the effective ones
assert libc.capset(header, data) == 0
head, size = ctypes.c_void_p(), ctypes.c_size_t()
number, pid = map(int, sys.argv[1:])
if libc.syscall(number, pid, ctypes.byref(head), ctypes.byref(size)) == 0:
    print("open")
elif ctypes.get_errno() == errno.EPERM:
    print("closed")
else:
    raise OSError(ctypes.get_errno(), "get_robust_list")
"""


def is_open_to_its_user(pid: int) -> bool:
    """Return whether another process of the same user, without CAP_SYS_PTRACE, may look into it."""
    number = str(_GET_ROBUST_LIST[platform.machine()])
    command = [sys.executable, "-I", "-c", _ASKING, number, str(pid)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return answer == "open"


def locked_kb(pid: int) -> int:
    """Return how much of its memory a process has locked."""
    with open(f"/proc/{pid}/status") as status:  # noqa: PTH123  # a line of it
        return next(int(line.split()[1]) for line in status if line.startswith("VmLck:"))
