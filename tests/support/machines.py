"""Machines to type commands on: each has a network and a view of files of its own.

Commands see the default places (/var/lib, /run, port 7443) and touch nothing of this machine's.
Namespaces hang on a process that ends with its standard input, so none outlives the test, however
that ends. Needs root and iproute2.
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support.etcd_cluster import need_etcd
from tests.support.running import SCRIPTS, Process

RUN_TIMEOUT_S: Final = 180.0
_HOLD: Final = """set -e
ip link set lo up
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/upper /run/work
programs=/usr/local/bin
layers=lowerdir=$programs,upperdir=/run/upper,workdir=/run/work
mount -t overlay -o "$layers" overlay "$programs"
mount -t tmpfs -o mode=755 tmpfs /var/lib
echo made
exec cat
"""


@dataclass
class Machine:
    """One machine; `home` is its user's, where files are that a page names without a path."""

    name: str
    address: str
    home: Path
    holder: "subprocess.Popen[bytes]"
    started: dict[str, Process] = field(default_factory=dict)
    """What was left running, by the command typed."""

    def run(
        self, command: str, stdin: bytes = b"", more: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Type a command and wait for its end."""
        return subprocess.run(
            self._words(command), input=stdin, capture_output=True, check=False,
            timeout=RUN_TIMEOUT_S, env={**self._environment(), **(more or {})},
        )  # fmt: skip

    def ok(self, command: str, stdin: bytes = b"") -> str:
        """Type a command that must succeed; return what it printed."""
        done = self.run(command, stdin)
        assert done.returncode == 0, (self.name, command, done.stdout, done.stderr)
        return done.stdout.decode()

    def start(self, command: str) -> Process:
        """Type a command that runs on."""
        log = self.home / f"{self.name}-{len(list(self.home.glob('*.log')))}.log"
        process = Process(command, self._words(f"exec {command}"), log, self._environment())
        process.start()
        self.started[command] = process
        return process

    def end(self, prefix: str) -> None:
        """End what was started by a command that begins so."""
        for command in [one for one in self.started if one.startswith(prefix)]:
            process = self.started.pop(command)
            if process.running:
                process.stop()

    def program(self, name: str, text: str) -> None:
        """Put a program into /usr/local/bin, for this machine only."""
        self.ok(f"cat > /usr/local/bin/{name} && chmod 755 /usr/local/bin/{name}", text.encode())

    def close(self) -> None:
        """End everything that runs here."""
        self.end("")
        assert self.holder.stdin is not None
        self.holder.stdin.close()
        self.holder.wait(30)
        assert self.holder.stdout is not None
        self.holder.stdout.close()

    def _words(self, command: str) -> list[str]:
        spaces = [f"--{kind}=/proc/{self.holder.pid}/ns/{short}" for kind, short in _SPACES]
        return ["nsenter", *spaces, "--", "sh", "-c", f"cd {self.home} && {command}"]

    def _environment(self) -> dict[str, str]:
        path = f"{SCRIPTS}:{need_etcd().parent}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
        return {**kept, "PATH": path, "HOME": str(self.home)}


_SPACES: Final = (("net", "net"), ("mount", "mnt"))


@dataclass
class Site:
    """Machines on one wire."""

    home: Path
    machines: dict[str, Machine] = field(default_factory=dict)

    def add(self, name: str, address: str) -> Machine:
        """Add a machine."""
        holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", _HOLD],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"made\n"
        machine = Machine(name, address, self.home, holder)
        self.machines[name] = machine
        self._connect(machine, len(self.machines))
        return machine

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def close(self) -> None:
        """End all machines."""
        for machine in self.machines.values():
            machine.close()

    def _connect(self, machine: Machine, number: int) -> None:
        """Plug a machine into the first one's bridge, which is the first one's own device."""
        first = next(iter(self.machines.values()))
        device = "br0"
        if machine is first:
            machine.ok("ip link add br0 type bridge")
        else:
            device = "eth0"
            peer = f"type veth peer name eth0 netns {machine.holder.pid}"
            first.ok(f"ip link add port{number} {peer} && ip link set port{number} master br0 up")
        machine.ok(f"ip address add {machine.address}/24 dev {device} && ip link set {device} up")
