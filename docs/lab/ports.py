"""Which wanted ports are taken, and by whom. Reads /proc; ends nothing."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from docs.lab.layout import HOST

_LISTEN = "0A"


def busy(ports: Iterable[int]) -> dict[int, str]:
    """Return the ports that cannot be listened on, each with its owner."""
    taken = [port for port in ports if not _is_free(port)]
    return {port: owner_of(port) for port in taken}


def owner_of(port: int) -> str:
    """Return "pid 12 (command)" of who listens on a port, as far as this user may know."""
    inodes = set(_listening_inodes(port))
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and inodes & set(_socket_inodes(process)):
            return f"pid {process.name} ({_command(process)})"
    return "a process of another user"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # What waits in TIME_WAIT is no owner.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError:
            return False
    return True


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _socket_inodes(process: Path) -> Iterator[str]:
    with suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    yield target[len("socket:[") : -1]


def _command(process: Path) -> str:
    with suppress(OSError):
        words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return words.strip()[:120] or "no command line"
    return "unknown"
