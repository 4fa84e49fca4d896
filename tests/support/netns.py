"""Hosts in network namespaces of their own, joined by a switch whose every link can be cut, slowed
and made lossy.

Namespaces and devices hang on open files of this process, so nothing of them outlives it, however
it ends. `enter_own_network` moves the calling process itself out of the machine's network first:
what a run sends can reach nothing but its own hosts. Needs root and iproute2.
"""

import ctypes
import fcntl
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

CLONE_NEWNET: Final = 0x40000000
TUNSETIFF: Final = 0x400454CA
IFF_TUN: Final = 0x0001
IFF_NO_PI: Final = 0x1000
MTU: Final = 9000
SUBNET: Final = "10.77.0"
OWN: Final = f"{SUBNET}.254"
"""The address of the process that runs the hosts."""

_libc = ctypes.CDLL(None, use_errno=True)

Link = tuple[float, float, float]
"""Loss (0 to 1), delay in ms, jitter in ms."""
CUT: Final[Link] = (1.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Host:
    """A namespace with one address."""

    name: str
    address: str
    namespace: int
    """An open file of this process."""
    tun: int

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return a command line that runs `argv` on this host; the program's pid is the child's."""
        return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self.namespace}", "--", *argv]


def enter_own_network() -> None:
    """Move this process into a network of its own; call it before any thread is started."""
    assert threading.active_count() == 1, "threads would stay behind in the machine's network"
    _unshare()
    _run(["ip", "link", "set", "lo", "up"])


@dataclass(slots=True)
class Network:
    """Hosts and the switch between them; this process is reached at `OWN`."""

    hosts: dict[str, Host] = field(default_factory=dict)
    rules: dict[tuple[str, str], Link] = field(default_factory=dict)
    _switch: "subprocess.Popen[bytes] | None" = None

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """Return a network of this process and a host per name."""
        network = cls()
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        network.hosts["own"] = Host("own", OWN, own, _tun(OWN))
        for number, name in enumerate(names, 1):
            network.hosts[name] = _new_host(name, f"{SUBNET}.{number}")
        network._start()
        return network

    def address(self, name: str) -> str:
        """Return a host's address."""
        return self.hosts[name].address

    def set_links(self, links: dict[tuple[str, str], Link]) -> None:
        """Make `links`, (source, target) by name, the only ones that are not perfect."""
        self.rules = dict(links)
        told = {
            f"{self.address(source)}>{self.address(target)}": link
            for (source, target), link in links.items()
        }
        assert self._switch is not None
        assert self._switch.stdin is not None
        self._switch.stdin.write(json.dumps(told).encode() + b"\n")
        self._switch.stdin.flush()

    def close(self) -> None:
        """End the switch and let go of the namespaces."""
        if self._switch is not None:
            assert self._switch.stdin is not None
            self._switch.stdin.close()
            self._switch.wait(10)
        for host in self.hosts.values():
            os.close(host.tun)
            os.close(host.namespace)

    def _start(self) -> None:
        program = Path(__file__).with_name("switch.py")
        words = [f"{host.address}={host.tun}" for host in self.hosts.values()]
        self._switch = subprocess.Popen(
            [sys.executable, "-I", str(program), *words],
            stdin=subprocess.PIPE,
            pass_fds=[host.tun for host in self.hosts.values()],
        )


def _new_host(name: str, address: str) -> Host:
    """Make a namespace in a thread of its own, because a thread cannot come back from one."""
    made: list[Host] = []

    def make() -> None:
        _unshare()
        _run(["ip", "link", "set", "lo", "up"])
        namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        made.append(Host(name, address, namespace, _tun(address)))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


def _tun(address: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"net0", IFF_TUN | IFF_NO_PI))
    _run(["ip", "address", "add", f"{address}/24", "dev", "net0"])
    _run(["ip", "link", "set", "net0", "mtu", str(MTU), "up"])
    return fd


def _unshare() -> None:
    if _libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "a network namespace needs root")


def _run(argv: Sequence[str]) -> None:
    subprocess.run(argv, check=True, capture_output=True)
