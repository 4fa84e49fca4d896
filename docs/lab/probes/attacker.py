"""What red would try to get at blue's secret. Run as red inside its namespaces, and as a control
where the one mechanism that stops it is absent.

    attacker.py file PATH | trace PID | socket PATH NAME

Prints "got in" and how many bytes, never the bytes; exits 0 if it got in and 1 if it did not.
"""

import ctypes
import os
import signal
import socket
import sys
from pathlib import Path

_PTRACE_SEIZE = 0x4206
_ANSWER_LIMIT = 1024 * 1024


def read_file(path: str) -> str:
    """Open a file; /proc/PID/root/... is one as well."""
    return f"read {len(Path(path).read_bytes())} bytes"


def trace(pid: str) -> str:
    """Become the debugger of a process: its memory is an open book then."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(_PTRACE_SEIZE, int(pid), None, None) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"ptrace {pid}")
    # It runs on, and is let go when this process ends.
    return f"traced process {pid}"


def ask_socket(path: str, name: str) -> str:
    """Ask another service's workload socket for its secret."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(path)
        client.sendall(b'{"v":1,"op":"get","name":"%s"}\n' % name.encode())
        with client.makefile("rb") as answer:
            head = answer.readline(_ANSWER_LIMIT)
    if b'"ok":true' not in head.replace(b" ", b""):
        raise PermissionError(f"the agent answers {head.decode().strip()}")
    return "the agent gave it"


def attempt(words: list[str]) -> str:
    """Do as told; raise OSError when kept out."""
    match words:
        case ["file", path]:
            return read_file(path)
        case ["trace", pid]:
            return trace(pid)
        case ["socket", path, name]:
            return ask_socket(path, name)
        case _:
            sys.exit(__doc__)


def main(words: list[str]) -> int:
    """Make one attempt."""
    signal.alarm(30)
    try:
        result = attempt(words)
    except OSError as error:
        sys.stdout.write(f"kept out: {error}\n")
        return 1
    sys.stdout.write(f"got in: {result}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
