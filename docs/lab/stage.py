"""The parts of a running lab, and how each is started: managers, agents, services, the third party.

Owns the command lines; what is shown with them is the scenario's business.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.cli.zipapp import build
from docs.lab.capabilities import Capabilities, Means
from docs.lab.layout import HOST, MANAGERS, PYTHON, Layout
from docs.lab.narrator import Narrator
from docs.lab.processes import Processes, children_of, pause
from docs.lab.shell import Done, LabError, Shell

READY_TIMEOUT_S = 60.0
PERIOD_S = 0.1


@dataclass(frozen=True, slots=True)
class Service:
    """One of the lab's services."""

    name: str
    node: str
    uid: int
    secret: str
    target: str


RED = Service("red", "node1", 64_101, "red-password", "red-password")
BLUE = Service("blue", "node1", 64_102, "blue-password", "password")
TWITTER = Service("twitter", "node2", 64_103, "twitter-credential", "api-credential")
SERVICES = (RED, BLUE, TWITTER)


@dataclass(frozen=True, slots=True)
class Lab:
    """Everything a step of the scenario works with."""

    layout: Layout
    capabilities: Capabilities
    narrator: Narrator
    shell: Shell
    processes: Processes
    managers: tuple[str, ...] = MANAGERS
    """The managers of this cluster; the first founds it."""
    init_options: tuple[str, ...] = ()
    """What `strongroom init` is told beside what it needs."""

    # --- waiting --------------------------------------------------------------------------------

    def wait_until(self, what: str, check: Callable[[], bool], *involved: str) -> None:
        """Wait until `check` holds; raise LabError if it does not, or if who is involved ended."""
        for _ in range(round(READY_TIMEOUT_S / PERIOD_S)):
            if check():
                return
            for name in involved:
                if not self.processes[name].is_running:
                    raise LabError(f"{name} ended while the lab waited until {what}")
            pause(PERIOD_S)
        raise LabError(f"waited {READY_TIMEOUT_S:g} s in vain until {what}")

    # --- managers -------------------------------------------------------------------------------

    def manager_command(self, name: str) -> list[str]:
        """Return what starts a manager."""
        layout = self.layout
        return [
            *("strongroom", "manager", "run", "--name", name, "--advertise", HOST),
            *("--data-dir", str(layout.manager_data(name))),
            *("--run-dir", str(layout.run_dir(name))),
            *("--api-listen", layout.address(name, 3)),
            *("--join-listen", layout.address(name, 4)),
            *("--peer-listen", layout.address(name, 5)),
            *("--etcd", str(layout.etcd)),
            *("--hook-directory", str(layout.hooks)),
        ]

    def start_managers(self, *names: str) -> None:
        """Start managers, show how, and wait until local root can talk to each."""
        for name in names:
            self.narrator.command(self.manager_command(name), " &")
            self.processes.start(name, self.manager_command(name))
        for name in names:
            self.wait_for_admin(name)

    def wait_for_admin(self, name: str) -> None:
        """Wait until a manager answers on its admin socket."""
        socket = str(self.layout.admin_socket(name))

        def answers() -> bool:
            return self.shell.look("strongroom", "status", "--admin-socket", socket).code == 0

        self.wait_until(f"{name} answers on its admin socket", answers, name)

    def join_addresses(self) -> str:
        """Return where nodes and managers join."""
        return self.layout.address(self.managers[0], 4)

    def status(self) -> dict[str, Any]:
        """Return the cluster's status."""
        found: dict[str, Any] = self.shell.ask("strongroom", "status")
        return found

    def managers_in_state(self, state: str) -> list[str]:
        """Return the names of the managers in a state."""
        return [one["name"] for one in self.status()["managers"] if one["state"] == state]

    # --- agents ---------------------------------------------------------------------------------

    def agent_command(self, node: str) -> list[str]:
        """Return what starts an agent."""
        layout = self.layout
        command = ["strongroom-agent", "run", "--data-dir", str(layout.node_data(node))]
        command += ["--run-dir", str(layout.run_dir(node))]
        if self.capabilities.means is not Means.USER_NAMESPACE:
            return command
        script = Path(__file__).parent / "apps" / "given_volumes.sh"
        volumes = [service.name for service in SERVICES if service.node == node]
        given = layout.run_dir(node) / "given"
        namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", str(script)]
        more = ["--mounts", "given", "--given-root", str(given)]
        return [*namespace, str(given), *volumes, "--", *command, *more]

    def exec_words(self, service: Service, *command: str) -> list[str]:
        """Return what runs a command as a service, in its view; without isolation, at its files."""
        run_dir = str(self.layout.run_dir(service.node))
        if self.capabilities.means is Means.KERNEL:
            agent = ["strongroom-agent", "exec", "--run-dir", run_dir]
            return [*agent, "--service", service.name, "--", *command]
        pid = str(self.processes[service.node].popen.pid)
        enter = ["nsenter", "--target", pid, "--user", "--preserve-credentials", "--mount"]
        return [*enter, *command]

    def secret_path(self, service: Service) -> str:
        """Return where a service reads its secret, as it sees it."""
        if self.capabilities.means is Means.KERNEL:
            return f"/run/secrets/{service.target}"
        return str(self.mount_of(service) / service.target)

    def mount_of(self, service: Service) -> Path:
        """Return where a service's mount is, as its agent sees it."""
        given = self.capabilities.means is Means.USER_NAMESPACE
        return self.layout.run_dir(service.node) / ("given" if given else "secrets") / service.name

    # --- services -------------------------------------------------------------------------------

    @property
    def third_party_url(self) -> str:
        """The third party's API."""
        return f"http://{HOST}:{self.layout.third_party_port}"

    def app(self, name: str) -> str:
        """Return the copy of an application that every uid can read."""
        return str(self.layout.apps / name)

    def service_command(self, service: Service) -> list[str]:
        """Return what starts a service's application."""
        words = [PYTHON, "-I", self.app(f"{service.name}.py"), self.secret_path(service)]
        if service.name == TWITTER.name:
            words.append(self.third_party_url)
        return self.exec_words(service, *words)

    def third_party(self, verb: str, *words: str) -> list[str]:
        """Return a command of the third party's staff."""
        return [PYTHON, "-I", self.app("third_party_api.py"), verb, *words]

    def usage(self) -> dict[str, Any]:
        """Return the third party's counts."""
        done = self.shell.look(*self.third_party("usage", str(self.layout.third_party_socket)))
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def value_file(self, name: str) -> Path:
        """Return the file with a value that the lab made up."""
        return self.layout.private / name

    def program_pid(self, service: Service) -> int:
        """Return the pid of a service's program: the child of pid 1 of its namespace."""
        pid = self.processes[service.name].popen.pid
        for _ in range(2):
            pid = children_of(pid)[0]
        return pid

    def digest_in_place(self, service: Service) -> str:
        """Return the SHA-256 of the file that a service reads now, or nothing."""
        done = self.shell.look(*self.exec_words(service, "sha256sum", self.secret_path(service)))
        return _digest(done)

    def digest_of(self, file: Path) -> str:
        """Return the SHA-256 of a file."""
        return _digest(self.shell.look("sha256sum", str(file)))


def _digest(done: Done) -> str:
    return done.stdout.split()[0] if done.code == 0 and done.stdout else ""


def copy_programs(layout: Layout) -> None:
    """Put applications, probes and the agent's one-file program where every uid can read them."""
    here = Path(__file__).parent
    for source in (*(here / "apps").glob("*.py"), here / "probes" / "attacker.py"):
        shutil.copyfile(source, layout.apps / source.name)
        (layout.apps / source.name).chmod(0o644)
    build(layout.agent_program)
    layout.agent_program.chmod(0o755)


def write_environment(layout: Layout, context: str) -> None:
    """Write what `. .lab/env` gives a second terminal."""
    lines = [
        "# Source this in a second terminal while the lab is up:  . .lab/env",
        f'export PATH="{layout.programs}:$PATH"',
        f'export XDG_CONFIG_HOME="{layout.config}"',
        f"export STRONGROOM_CONTEXT={context}",
        f'export LAB="{layout.runtime}"',
        f'export LAB_STATE="{layout.state}"',
    ]
    (layout.state / "env").write_text("\n".join(lines) + "\n")


def last_log_lines(processes: Processes, names: tuple[str, ...]) -> list[str]:
    """Return the end of the logs of those who were involved in what failed."""
    lines: list[str] = []
    for name in names:
        with suppress(KeyError, OSError):
            lines += [f"{name}: {line}" for line in processes[name].last_lines()]
    return lines
