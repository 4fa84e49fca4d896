"""The story of the lab in containers: the steps of `make lab` where they hold, and their own where
containers differ.

Not played as they are: founding, which the bootstrap does; the flags of a mount, which the engine
drops on the application's side; the attacks, made here by root of the container; and unlocking,
because one manager that restarts finds its key on a volume while another holds it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from docs.lab.compose.containers import SERVICES as CONTAINERS
from docs.lab.compose.driver import EXEC, ContainerLab, save_unlock_key
from docs.lab.layout import MANAGERS, NODES
from docs.lab.shell import Done
from docs.lab.stage import BLUE, RED, SERVICES, Service
from docs.lab.steps import disk, failover, placing, rotation, unlocking
from docs.lab.steps.step import Step

NOT_SHOWN = {"blue was sent a signal"}
"""Claims of the steps that containers cannot show."""
_ATTACKER = ("python3", "-I", "/app/attacker.py")
_FLAGS = {"nosuid", "nodev", "noexec", "noswap"}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the story."""

    title: str
    text: str
    run: Callable[[ContainerLab], None]


def _as_at_home(step: Step) -> Part:
    return Part(step.title, step.text, step.run)


def bring_up(lab: ContainerLab) -> None:
    """Start everything; the bootstrap founds the cluster."""
    lab.shell.run("docker-compose", "up", "-d", "--no-build")
    wait_for_bootstrap(lab)
    unlocking.show_all_ready(lab)
    told = [one for one in lab.status()["findings"] if "unlocks by itself" in one["why"]]
    lab.narrator.observe(
        "unlocking by itself is called", seen=[one["level"] for one in told], expected=["weak"]
    )
    lab.shell.run("strongroom", "node", "ls")
    nodes = {node["name"]: node["strength"] for node in lab.shell.ask("strongroom", "node", "ls")}
    proven = dict.fromkeys(NODES, "secure")
    lab.narrator.observe("nodes prove memory without a capability", seen=nodes, expected=proven)
    save_unlock_key(lab)
    show_nothing_told(lab)


def wait_for_bootstrap(lab: ContainerLab) -> None:
    """Wait until the bootstrap has ended, and show what it said."""

    def ended() -> bool:
        return str(lab.engine.inspect("bootstrap")["State"]["Status"]) == "exited"

    lab.wait_until("the bootstrap is done", ended)
    lab.narrator.output(lab.engine.logs("bootstrap", 8))
    code = lab.engine.inspect("bootstrap")["State"]["ExitCode"]
    lab.narrator.observe("the bootstrap's exit code", seen=code, expected=0)


def show_nothing_told(lab: ContainerLab) -> None:
    """Show that neither token nor key stands in a log or among what the engine knows."""
    key = lab.layout.unlock_key.read_text().strip()
    known = {name: lab.engine.logs(name) + json.dumps(lab.engine.inspect(name))
             for name in CONTAINERS}  # fmt: skip
    tellers = [name for name, text in known.items() if "SRTKN-1" in text or key in text]
    lab.narrator.observe("logs and words that hold a token or the key", seen=tellers, expected=[])


def show_files(lab: ContainerLab) -> None:
    """Show the files and their mount, from both sides."""
    for service in SERVICES:
        seen, stored = lab.digest_in_place(service), lab.digest_of(lab.value_file(service.secret))
        claim = f"{service.name} reads exactly what was stored"
        lab.narrator.observe(claim, seen=bool(seen) and seen == stored)
    _show_mount(lab, (*EXEC, RED.node), str(lab.mount_of(RED)), {"rw", *_FLAGS})
    # The engine drops nosuid, nodev and noexec on a read-only mount of a volume: only the agent's
    # side is promised. noswap is a property of the file system and holds for both.
    _show_mount(lab, (*EXEC, RED.name), "/run/secrets", {"ro", "noswap"})
    words = lab.exec_words(RED, "stat", "-L", "-c", "%a %u %g", lab.secret_path(RED))
    seen = lab.shell.run(*words).stdout.strip()
    lab.narrator.observe("mode, uid, gid", seen=seen, expected=f"440 64000 {RED.uid}")


def _show_mount(lab: ContainerLab, enter: tuple[str, ...], place: str, wanted: set[str]) -> None:
    done = lab.shell.run(*enter, "findmnt", "-n", "-o", "FSTYPE,OPTIONS", place)
    kind, _, options = done.stdout.strip().partition(" ")
    missing = sorted(wanted - set(options.strip().split(",")))
    lab.narrator.observe(f"{enter[-1]} has it on", seen=kind, expected="tmpfs")
    lab.narrator.observe(f"options that {enter[-1]} lacks", seen=missing, expected=[])


def attack(lab: ContainerLab) -> None:
    """Let root of red's container try."""
    own, other = lab.secret_path(RED), lab.secret_path(BLUE)
    _try(lab, "blue's file", "file", other)
    _control(lab, "blue reads it", _as(lab, BLUE, "file", other).stdout)
    _try(lab, "red's own file, which root may not read", "file", own)
    _control(lab, "red reads it", _as(lab, RED, "file", own).stdout)
    _try(lab, "a writable mount", "remount", "/run/secrets")
    told = lab.control(*_ATTACKER, "remount", "/run/secrets").stdout
    _control(lab, "a container that may mount gets it", told)
    _try(lab, "namespaces of its own", "namespace")
    _control(lab, "with that right they are made", lab.control(*_ATTACKER, "namespace").stdout)
    _try(
        lab,
        "blue's secret over red's socket",
        "socket",
        "/run/strongroom/workload.sock",
        "password",
    )
    told = _as(lab, BLUE, "socket", "/run/strongroom/workload.sock", "password").stdout
    _control(lab, "blue gets it over its own", told)


def _try(lab: ContainerLab, what: str, *words: str) -> None:
    root = ("docker", "exec", "--user", "0", lab.engine.container(RED.name))
    done = lab.shell.attempt(*root, *_ATTACKER, *words)
    kept_out = done.code == 1 and done.stdout.startswith("kept out")
    lab.narrator.observe(f"root in red does not get {what}", seen=kept_out)


def _as(lab: ContainerLab, service: Service, *words: str) -> Done:
    return lab.shell.attempt(*lab.exec_words(service, *_ATTACKER, *words))


def _control(lab: ContainerLab, claim: str, told: str) -> None:
    lab.narrator.observe(f"control: {claim}", seen=told.startswith("got in"))


def search(lab: ContainerLab) -> None:
    """Search what the engine has on disk: named volumes, logs, and what it knows of containers."""
    values = [lab.value_file(service.secret) for service in SERVICES]
    values.append(lab.layout.unlock_key)
    open_roots = [
        n for n in CONTAINERS if not lab.engine.inspect(n)["HostConfig"]["ReadonlyRootfs"]
    ]
    lab.narrator.observe("containers that can write elsewhere", seen=open_roots, expected=[])
    disk.search_disks(lab, values, lab.layout.state / "volumes")
    disk.search_disks(lab, values, lab.layout.state / "containers", control=False)


def come_back(lab: ContainerLab) -> None:
    """Start the leader that was killed: the provider file opens it."""
    lab.start_managers(*unlocking.missing(lab))
    unlocking.show_all_ready(lab)


def restart_all(lab: ContainerLab) -> None:
    """Take everything down and up: memory is empty, data are there, managers are locked."""
    lab.shell.run("docker-compose", "down", "--timeout", "5")
    lab.shell.run("docker-compose", "up", "-d", "--no-build")
    wait_for_bootstrap(lab)
    told = lab.engine.logs("bootstrap")
    lab.narrator.observe("the bootstrap touches nothing", seen=told.count("is locked"), expected=3)
    for name in MANAGERS:
        socket = str(lab.layout.admin_socket(name))
        state = lab.shell.look(
            "strongroom", "status", "--admin-socket", socket, "-q"
        ).stdout.strip()
        lab.narrator.observe(f"{name} is up, and", seen=state, expected="locked")
    empty = [service.name for service in SERVICES if not lab.digest_in_place(service)]
    everyone = [service.name for service in SERVICES]
    lab.narrator.observe("services without a secret", seen=empty, expected=everyone)
    for name in MANAGERS:
        words = unlocking.unlock_words(lab, name)
        last = ("--detach",) if name != MANAGERS[-1] else ()
        lab.shell.run(*words, "--key-file", str(lab.layout.unlock_key), *last)
    unlocking.show_all_ready(lab)
    for service in SERVICES:
        wait_for_secret(lab, service)
    lab.narrator.observe("all services have their secrets again", seen=True)


def wait_for_secret(lab: ContainerLab, service: Service) -> None:
    """Wait until a service reads a secret."""

    def reads() -> bool:
        return bool(lab.digest_in_place(service))

    lab.wait_until(f"{service.name} has its secret", reads)


STORY = (
    Part(
        "Bring the lab up",
        """One command. The service bootstrap stands in for an operator: it founds the cluster on
        m1, lets m2, m3 and the nodes in by tokens of their own, and ends.""",
        bring_up,
    ),
    _as_at_home(placing.STEP),
    Part(
        "Secrets are files in memory",
        """The agent was given a tmpfs volume for each service and proves it before it writes. The
        engine mounts the same volume into the application, read-only.""",
        show_files,
    ),
    Part(
        "Root of red's container",
        """Red was taken over, and the attacker is even root inside: uid 0, without capabilities.
        Each attempt has a control that shows the way itself works.""",
        attack,
    ),
    Part(disk.STEP.title, disk.STEP.text, search),
    _as_at_home(rotation.STEP),
    _as_at_home(failover.STEP),
    Part(
        "A killed manager comes back",
        """It starts locked, finds the key on a volume in memory that the other managers kept alive,
        and unlocks by itself. That is convenient, and weak: `status` says so.""",
        come_back,
    ),
    Part(
        "All down, all up",
        """Without a container that holds it a volume in memory is gone, and the unlock key with it.
        The managers' data are on disk, sealed. Their owner unlocks them by standard input.""",
        restart_all,
    ),
)


def play(lab: ContainerLab) -> None:
    """Tell the whole story."""
    for part in STORY:
        lab.narrator.step(part.title, part.text)
        part.run(lab)
