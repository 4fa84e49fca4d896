"""What a service that was taken over would try. Run as that service inside its namespaces, and as
a control where the one mechanism that stops it is absent.

    attacker.py file PATH | trace PID | socket PATH NAME     another service's secret
    attacker.py remount PATH | namespace                     the walls themselves
    attacker.py connect PATH | manager HOST PORT | kill PID  who is behind them

Prints "got in" and how many bytes, never the bytes; exits 0 if it got in and 1 if it did not.
"""

import ctypes
import os
import signal
import socket
import ssl
import sys
from pathlib import Path

_PTRACE_SEIZE = 0x4206
_MS_REMOUNT_BIND = 32 | 4096
_NEW_USER_AND_MOUNTS = 0x10000000 | 0x00020000
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


def remount(path: str) -> str:
    """Make a read-only mount writable, as a program could then plant a file of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", path.encode(), None, _MS_REMOUNT_BIND, None) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"remount {path}")
    return f"{path} is writable"


def make_namespace() -> str:
    """Become root of a user namespace of one's own, which may mount what it likes."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_USER_AND_MOUNTS) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "unshare")
    return "made a user and a mount namespace"


def connect(path: str) -> str:
    """Reach a unix socket that is somebody else's."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    return "connected"


def ask_manager(host: str, port: str) -> str:
    """Ask a manager for the list of secrets, without a certificate: an application has none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain) as client,
    ):
        client.sendall(b"GET /v1/secrets HTTP/1.1\r\nHost: manager\r\nConnection: close\r\n\r\n")
        answer = client.recv(_ANSWER_LIMIT)
    if not answer:
        raise ConnectionError("the manager closed the connection")
    return f"the manager answers {len(answer)} bytes"


def disturb(pid: str) -> str:
    """Find out whether a process could be signalled; signal 0 only asks."""
    os.kill(int(pid), 0)
    return f"could end process {pid}"


def attempt(words: list[str]) -> str:
    """Do as told; raise OSError when kept out."""
    match words:
        case ["file", path]:
            return read_file(path)
        case ["trace", pid]:
            return trace(pid)
        case ["socket", path, name]:
            return ask_socket(path, name)
        case ["remount", path]:
            return remount(path)
        case ["namespace"]:
            return make_namespace()
        case ["connect", path]:
            return connect(path)
        case ["manager", host, port]:
            return ask_manager(host, port)
        case ["kill", pid]:
            return disturb(pid)
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
