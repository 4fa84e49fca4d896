"""Where everything of one lab lies: directories, ports, programs.

What may rest on a disk is under `state` in the checkout. Sockets, mounts, the unlock key and the
values that the lab makes up are under `runtime`: memory wherever the lab may mount, and a place
that a service's uid can enter, which a home directory is not.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

MANAGERS = ("m1", "m2", "m3")
NODES = ("node1", "node2")
MARKER = ".strongroom-lab"
"""Stands in a directory that a lab may empty."""
PORTS_PER_MANAGER = 10
DEFAULT_PORT = 17_440
HOST = "127.0.0.1"
PYTHON = "/usr/bin/python3"
"""Of the services: a uid of theirs may not be able to enter the home of another interpreter."""


def default_runtime() -> Path:
    """Return the runtime directory for this user."""
    if os.geteuid() == 0:
        return Path("/run/strongroom-lab")
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    if own.startswith("/") and Path(own).is_dir():
        return Path(own) / "strongroom-lab"
    return Path(f"/tmp/strongroom-lab-{os.geteuid()}")  # noqa: S108  # `leftovers` checks whose it is


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of one lab."""

    repository: Path
    state: Path
    runtime: Path
    first_port: int

    @property
    def programs(self) -> Path:
        """The directory of `strongroom` and `strongroom-agent`."""
        return Path(sys.executable).parent

    @property
    def etcd(self) -> Path | None:
        """The unpacked etcd, the older release first: it is what Debian stable had for long."""
        found = sorted((self.repository / ".tools").glob("etcd-*/usr/bin/etcd"))
        return found[0] if found else None

    @property
    def lock(self) -> Path:
        """Held while a lab runs; marks the state directory as the lab's."""
        return self.state / MARKER

    @property
    def logs(self) -> Path:
        """One file a process."""
        return self.state / "logs"

    @property
    def process_files(self) -> Path:
        """One file a running process, for a lab that comes after a killed one."""
        return self.state / "processes"

    @property
    def config(self) -> Path:
        """The operator's XDG_CONFIG_HOME."""
        return self.state / "config"

    @property
    def private(self) -> Path:
        """Values, tokens and the unlock key; nobody else may enter."""
        return self.runtime / "private"

    @property
    def apps(self) -> Path:
        """Copies of the applications and probes, for every uid to read."""
        return self.runtime / "apps"

    @property
    def hooks(self) -> Path:
        """The managers' hook directory, one for all of them here."""
        return self.private / "hooks"

    @property
    def agent_program(self) -> Path:
        """`strongroom-agent` as one file, for inside a service."""
        return self.apps / "strongroom-agent"

    @property
    def unlock_key(self) -> Path:
        """The cluster's unlock key, never beside the data it opens."""
        return self.private / "unlock-key"

    @property
    def third_party_socket(self) -> Path:
        """Where the third party's own staff talks to its API."""
        return self.private / "third-party.sock"

    @property
    def third_party_port(self) -> int:
        """Where the third party's API listens."""
        return self.first_port + 5

    def story_port(self, number: int) -> int:
        """Return a port that only some scenario needs; there are four."""
        return self.third_party_port + 1 + number

    def manager_data(self, name: str) -> Path:
        """Return a manager's data directory."""
        return self.state / "managers" / name

    def node_data(self, name: str) -> Path:
        """Return a node's data directory: its identity."""
        return self.state / "nodes" / name

    def run_dir(self, name: str) -> Path:
        """Return the directory of a manager's or agent's sockets and mounts."""
        return self.runtime / name

    def admin_socket(self, name: str) -> Path:
        """Return a manager's admin socket."""
        return self.run_dir(name) / "admin.sock"

    def address(self, manager: str, offset: int) -> str:
        """Return a manager's host and port: 3 the API, 4 joining, 5 its engine's peers."""
        port = self.first_port + PORTS_PER_MANAGER * (MANAGERS.index(manager) + 1) + offset
        return f"{HOST}:{port}"

    @property
    def ports(self) -> dict[int, str]:
        """Every port the lab needs, and what for."""
        wanted = {self.third_party_port: "the third party's API"}
        for name in MANAGERS:
            for offset, use in ((3, "API"), (4, "joining"), (5, "engine")):
                wanted[int(self.address(name, offset).rpartition(":")[2])] = f"{name}'s {use}"
        return wanted
