"""What goes wrong by hand: a manager left out, a token used twice, a volume on a disk."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from docs.lab.compose.driver import ContainerLab

LEFT = ("m1", "m2")
JOIN = ("strongroom-agent", "join", "--manager", "m1:7444", "--name")
SERVICE = (
    *("strongroom", "service", "create", "plain", "--secret", "red-password"),
    *("--constraint", "node.name==plain1"),
)


@pytest.fixture
def without_m3(lab: ContainerLab) -> Iterator[tuple[str, ...]]:
    """Return the docker-compose command of a lab whose file has lost a manager."""
    context = Path(os.environ["STRONGROOM_LAB"])
    text = (context / "docker-compose.yml").read_text()
    lost = re.sub(r"\n  m3:\n(?:    .*\n)+", "\n", text).replace("[m1, m2, m3]", "[m1, m2]")
    assert lost.count("m3-data") == text.count("m3-data") - 1
    (context / "lost.yml").write_text(lost)
    compose = ("docker-compose", "--project-name", "lost", "--file", "lost.yml")
    try:
        lab.engine.run(*compose, "up", "--detach", "--no-build", *LEFT)
        yield compose
    finally:
        lab.engine.run(*compose, "down", "--volumes", "--timeout", "0")


def test_bootstrap_founds_nothing_while_a_manager_is_missing(
    lab: ContainerLab, without_m3: tuple[str, ...]
) -> None:

    def state(manager: str) -> str:
        words = ("exec", "-T", manager, "strongroom", "status", "--admin-socket", "-q")
        return lab.engine.run(*without_m3, *words, check=False).strip()

    lab.wait_until(
        "both are up", lambda: [state(manager) for manager in LEFT] == ["empty", "empty"]
    )
    program = ("python3", "/opt/strongroom/lab/bootstrap.py", "--patience", "1")
    said = lab.engine.run(
        *without_m3, "run", "--rm", "--no-deps", "bootstrap", *program, check=False
    )
    assert "manager m3 does not answer on its admin socket; nothing was changed" in said
    assert [state(manager) for manager in LEFT] == ["empty", "empty"]


def worker_token(lab: ContainerLab) -> bytes:
    """Return a token that admits one node."""
    done = lab.shell.look("strongroom", "token", "create", "--role", "worker")
    return done.stdout.strip().encode()


def agent(lab: ContainerLab, *words: str, stdin: bytes) -> str:
    """Return what a command says in a fresh container of an agent."""
    run = ("docker", "run", "--rm", "--interactive", "--network", "strongroom_control")
    return lab.engine.run(*run, "strongroom-agent", *words, stdin=stdin, check=False)


def test_token_admits_once(lab: ContainerLab) -> None:
    token = worker_token(lab)
    first = agent(lab, *JOIN, "extra1", stdin=token)
    assert "not accepted" not in first
    second = agent(lab, *JOIN, "extra2", stdin=token)
    assert "the join token is not accepted" in second
    assert node_states(lab).keys() == {"node1", "node2", "extra1"}
    lab.shell.run("strongroom", "node", "rm", "extra1")


def test_node_with_a_spent_token_says_what_to_do(lab: ContainerLab) -> None:
    token = worker_token(lab)
    agent(lab, *JOIN, "extra3", stdin=token)
    keep = "umask 077; cat > /tmp/token; exec join-and-run extra4 /tmp/token m1:7444"
    said = agent(lab, "sh", "-c", keep, stdin=token)
    assert "the join token is not accepted" in said
    assert "extra4: not joined; start the service bootstrap again" in said
    lab.shell.run("strongroom", "node", "rm", "extra3")


def test_volume_on_a_disk_gets_no_secret(lab: ContainerLab) -> None:
    with node_with_plain_volume(lab) as volume:
        assert lab.shell.look(*SERVICE, "--timeout", "2s").code != 0

        def told() -> bool:
            (task,) = lab.shell.ask("strongroom", "service", "ps", "plain")
            return "not a tmpfs" in task["error"]

        lab.wait_until("the task says what is wrong", told)
        assert list(volume.iterdir()) == []


def test_second_cluster_on_the_same_ports_is_refused_and_the_first_goes_on(
    lab: ContainerLab,
) -> None:
    """Containers have addresses of their own; here a second manager shares that of m1."""
    cluster = lab.status()["cluster_id"]
    network = ("--network", f"container:{lab.engine.container('m1')}")
    run = ("docker", "run", "--rm", *network, "--tmpfs", "/run/strongroom:uid=64010,mode=0700")
    program = ("strongroom", "manager", "run", "--name", "other", "--advertise", "m1")
    said = lab.engine.run(*run, "strongroom-manager", *program, check=False)
    assert "0.0.0.0:7443 cannot be used: address already in use" in said
    assert lab.status()["cluster_id"] == cluster
    assert sorted(lab.managers_in_state("ready")) == ["m1", "m2", "m3"]


@contextmanager
def node_with_plain_volume(lab: ContainerLab) -> Iterator[Path]:
    """Yield where a volume is on the disk that a further node, plain1, was given for a service."""
    name = "strongroom-plain"
    mount = ("--mount", f"type=volume,source={name},target=/run/volumes/plain")
    own = ("docker", "run", "--rm", "--user", "0", *mount, "strongroom-app")
    lab.engine.run(*own, "chown", "64000", "/run/volumes/plain")
    place = ("--network", "strongroom_control", "--tmpfs", "/run/strongroom-agent:uid=64000")
    program = ("join-and-run", "plain1", "/tmp/token", "m1:7444")
    given = ("--mounts", "given", "--given-root", "/run/volumes")
    run = ("docker", "run", "--detach", "--name", name, *place, *mount)
    lab.engine.run(*run, "strongroom-agent", *program, *given)
    try:
        bring = "umask 077; cat > /tmp/.token; mv /tmp/.token /tmp/token"
        into = ("docker", "exec", "--interactive", name, "sh", "-c", bring)
        lab.engine.run(*into, stdin=worker_token(lab))
        lab.wait_until("plain1 is ready", lambda: node_states(lab).get("plain1") == "ready")
        yield lab.layout.state / "volumes" / name / "_data"
    finally:
        lab.shell.attempt("strongroom", "service", "rm", "plain")
        lab.shell.attempt("strongroom", "node", "rm", "plain1")
        lab.engine.run("docker", "rm", "--force", "--volumes", name, check=False)
        lab.engine.run("docker", "volume", "rm", "--force", name, check=False)


def node_states(lab: ContainerLab) -> dict[str, str]:
    """Return the state of each node, by name."""
    return {node["name"]: node["state"] for node in lab.shell.ask("strongroom", "node", "ls")}
