"""The lab's stage in containers: the steps of `make lab` play on it, and type into containers.

Owns where a command runs and how a file gets there. A command never leaves this machine with a
secret among its words: a file that the step names goes in by standard input. What a step shows is
what a person would type.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from docs.lab.capabilities import Capabilities, Means
from docs.lab.compose.containers import Containers, Engine
from docs.lab.layout import Layout
from docs.lab.narrator import Narrator
from docs.lab.shell import Done, Shell
from docs.lab.stage import Lab, Service

EXEC = ("docker-compose", "exec", "-T")
API = ("python3", "-I", "/app/third_party_api.py")
CONSOLE = "/run/console/sock"
ISOLATION = "a container is no child of its agent, which can neither signal it nor give it files"
"""Why the steps that are about `strongroom-agent exec` are not played here."""


class ContainerShell(Shell):
    """A terminal whose commands run in containers."""

    def __init__(
        self, narrator: Narrator, environment: Mapping[str, str], layout: Layout, engine: Engine
    ) -> None:
        super().__init__(narrator, environment, layout.repository)
        self._layout = layout
        self._engine = engine

    def attempt(self, *words: str, stdin: Path | None = None) -> Done:
        """Show a command as one types it here, and what it prints; it may fail."""
        placed, source = self._placed(words)
        return super().attempt(*placed, stdin=source or stdin)

    def _finished(self, words: Sequence[str], stdin: Path | None = None) -> Done:
        placed, source = self._placed(words)
        if tuple(placed[:3]) != EXEC:
            return super()._finished(placed, stdin)
        # The same, without the second that docker-compose takes to start.
        container, command = self._engine.container(placed[3]), placed[4:]
        done = super()._finished(("docker", "exec", "-i", container, *command), source or stdin)
        if "issue" in command and done.code == 0:
            self._fetch(container, command[-1])
        return done

    def _placed(self, words: Sequence[str]) -> tuple[tuple[str, ...], Path | None]:
        """Return the command as it is typed here, and the file that it reads."""
        source = next((Path(word) for word in words if self._is_private(word)), None)
        match tuple(words):
            case ("strongroom", *rest):
                where = "operator"
                if "--admin-socket" in rest:
                    at = rest.index("--admin-socket")
                    where = Path(rest[at + 1]).parent.name
                    rest[at + 1] = "/run/strongroom/admin.sock"
                typed = ["-" if self._is_private(word) else word for word in rest]
                return (*EXEC, where, "strongroom", *typed), source
            case ("python", "/app/twitter.py", _, *rest):
                # Where the third party can be reached and no service is disturbed.
                app = ("python3", "-I", "/app/twitter.py", "/dev/stdin")
                return (*EXEC, "third-party", *app, *rest), source
            case _:
                return tuple(words), None

    def _is_private(self, word: str) -> bool:
        return word.startswith(f"{self._layout.private}/")

    def _fetch(self, container: str, name: str) -> None:
        """Take a credential that was issued over to where the lab keeps its values."""
        target = self._layout.private / Path(name).name
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self._engine.run("docker", "exec", container, "cat", name))
        self._engine.run("docker", "exec", container, "rm", name)


@dataclass(frozen=True, slots=True)
class ContainerLab(Lab):
    """The stage: three managers, two nodes and four applications, each in a container."""

    engine: Engine = field(kw_only=True)

    def start_managers(self, *names: str) -> None:
        """Start managers that were ended, and wait until each answers."""
        self.shell.run("docker-compose", "start", *names)
        for name in names:
            self.wait_for_admin(name)

    def exec_words(self, service: Service, *command: str) -> list[str]:
        """Return what runs a command in a service's container."""
        return [*EXEC, service.name, *command]

    def secret_path(self, service: Service) -> str:
        """Return where a service reads its secret, as it sees it."""
        return f"/run/secrets/{service.target}"

    def mount_of(self, service: Service) -> Path:
        """Return where a service's volume is in its agent's container."""
        return Path("/run/volumes") / service.name

    @property
    def third_party_url(self) -> str:
        """The third party's API, as twitter reaches it."""
        return "http://third-party:8080"

    def app(self, name: str) -> str:
        """Return where an application is in the image."""
        return f"/app/{name}"

    def service_command(self, service: Service) -> list[str]:
        """Return what starts a service's application."""
        return ["docker-compose", "start", service.name]

    def third_party(self, verb: str, *words: str) -> list[str]:
        """Return a command of the third party's staff."""
        if verb == "serve":
            return ["docker-compose", "start", "third-party"]
        told = [f"/run/console/{Path(word).name}" if "/" in word else word for word in words[1:]]
        return [*EXEC, "third-party", *API, verb, CONSOLE, *told]

    def control(self, *words: str) -> Done:
        """Return what root does in a container with red's volume and with the right to mount."""
        volume = "type=volume,source=strongroom_red-secrets,target=/run/secrets,readonly"
        rights = ["--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"]
        rights += ["--security-opt", "apparmor=unconfined", "--user", "0", "--network", "none"]
        rights += ["--mount", volume]
        return self.shell.attempt("docker", "run", "--rm", *rights, "strongroom-app", *words)


def make_lab(repository: Path, disk: Path, runtime: Path, narrator: Narrator) -> ContainerLab:
    """Return the stage. `disk`: where the engine writes; `runtime`: a tmpfs for values."""
    layout = Layout(repository, disk, runtime, first_port=0)
    layout.private.mkdir(mode=0o700, parents=True, exist_ok=True)
    environment = dict(os.environ)
    engine = Engine(environment, repository)
    capabilities = Capabilities(Means.USER_NAMESPACE, delivery="", isolation=ISOLATION)
    shell = ContainerShell(narrator, environment, layout, engine)
    containers = Containers(layout, environment, engine)
    return ContainerLab(layout, capabilities, narrator, shell, containers, engine=engine)


def save_unlock_key(lab: ContainerLab) -> None:
    """Take the unlock key from its volume to its owner."""
    file = lab.layout.unlock_key
    lab.narrator.command((*EXEC, "m1", "cat", "/run/unlock/key"), f" > {file}")
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as target:
        words = ("docker", "exec", lab.engine.container("m1"), "cat", "/run/unlock/key")
        subprocess.run(words, stdout=target, env=dict(os.environ), timeout=30, check=True)
