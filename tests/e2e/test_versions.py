"""Versions on real nodes: an overlap comes and goes, a rollback brings the bytes back, prune ends
that."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.command_line import CommandLine
from tests.support.running import AgentProcess, RunningCluster, running_cluster, wait_until

TARGET = "db"
PREVIOUS = "db.previous"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """One manager on SQLite, one agent."""
    with running_cluster(agents=1) as running:
        yield running


@pytest.fixture(scope="module")
def agent(cluster: RunningCluster) -> AgentProcess:
    return cluster.agents[0]


@pytest.fixture(scope="module")
def shell(cluster: RunningCluster) -> CommandLine:
    shell = CommandLine(cluster.base / "shell")
    socket = str(cluster.managers[0].admin_socket)
    shell.ok("operator", "renew", "admin", "--admin-socket", socket)
    return shell


def served(shell: CommandLine, name: str, uid: int, reference: str) -> None:
    """Create a secret and a service of one name, and wait until the files are there."""
    shell.ok("secret", "create", name, "-", stdin=b"one")
    who = ("--uid", str(uid), "--gid", str(uid))
    shell.ok("service", "create", name, "--secret", reference, *who)


def states(shell: CommandLine, name: str) -> dict[int, str]:
    versions: list[dict[str, Any]] = shell.json("secret", "versions", name)
    return {
        one["number"]: "destroyed" if one["value"] == "destroyed" else one["state"]
        for one in versions
    }


def test_both_versions_are_there_while_the_overlap_lasts(
    cluster: RunningCluster, shell: CommandLine, agent: AgentProcess
) -> None:
    """The version before is in a second file, until the manager retires it, also across a kill -9
    of the manager."""
    served(shell, "both", 22_101, f"source=both,target={TARGET},previous")
    assert (agent.read("both", TARGET), agent.read("both", PREVIOUS)) == (b"one", None)
    shell.ok("secret", "rotate", "both", "-", "--overlap", "1h", stdin=b"two")
    assert (agent.read("both", TARGET), agent.read("both", PREVIOUS)) == (b"two", b"one")
    shell.ok("secret", "rotate", "both", "-", "--overlap", "5s", stdin=b"three")
    assert (agent.read("both", TARGET), agent.read("both", PREVIOUS)) == (b"three", b"two")
    (manager,) = cluster.managers
    manager.kill()
    manager.start()
    manager.unlock(cluster.unlock_key)
    wait_until(lambda: agent.read("both", PREVIOUS) is None, "the overlap is over on the node")
    assert agent.read("both", TARGET) == b"three"
    assert states(shell, "both") == {1: "active", 2: "retired", 3: "primary"}


def test_a_rollback_brings_the_bytes_back(shell: CommandLine, agent: AgentProcess) -> None:
    """Under the old number, with an acknowledgement from the node; and forth again."""
    served(shell, "undone", 22_102, "undone")
    shell.ok("secret", "rotate", "undone", "-", stdin=b"bad")
    said = shell.ok("secret", "rollback", "undone")
    assert said.startswith("version 1, rolled back from 2, on 1 of 1 node in ")
    assert agent.read("undone", "undone") == b"one"
    wait_until(lambda: states(shell, "undone")[2] == "retired", "what was left is retired")
    shell.ok("secret", "rollback", "undone", "--to", "2")
    assert agent.read("undone", "undone") == b"bad"
    shell.ok("secret", "rollback", "undone")
    assert shell.ok("secret", "rotate", "undone", "-", stdin=b"good").startswith("version 3 ")
    assert agent.read("undone", "undone") == b"good"


def test_what_is_pruned_cannot_be_rolled_back_to(shell: CommandLine, agent: AgentProcess) -> None:
    """The refusal says so, and the present version stays in its file."""
    served(shell, "pruned", 22_103, "pruned")
    shell.ok("secret", "rotate", "pruned", "-", stdin=b"two")
    wait_until(lambda: states(shell, "pruned")[1] == "retired", "the first version is retired")
    assert shell.ok("secret", "prune", "pruned") == "secret pruned: nothing to destroy, kept 1\n"
    assert "destroyed 1" in shell.ok("secret", "prune", "pruned", "--keep", "0")
    assert "is destroyed" in shell.refused(1, "secret", "rollback", "pruned")
    assert "is destroyed" in shell.refused(1, "secret", "rollback", "pruned", "--to", "1")
    assert "no version 9" in shell.refused(1, "secret", "rollback", "pruned", "--to", "9")
    assert agent.read("pruned", "pruned") == b"two"


def test_an_overlap_longer_than_the_expiry_is_refused(
    shell: CommandLine, agent: AgentProcess
) -> None:
    """The old version keeps working, and `status` tells that it expires."""
    served(shell, "ending", 22_104, "ending")
    shell.ok("secret", "update", "ending", "--expires", "1h")
    refused = shell.refused(1, "secret", "rotate", "ending", "-", "--overlap", "2h", stdin=b"two")
    assert "longer than version 1 lasts" in refused
    assert agent.read("ending", "ending") == b"one"
    assert "version 1 of secret ending expires at" in shell.ok("status")


def test_files_that_would_be_one_are_refused(shell: CommandLine) -> None:
    """`db.previous` cannot belong to two references."""
    shell.ok("secret", "create", "twice", "-", stdin=b"one")
    refused = shell.refused(
        1, "service", "create", "twice", "--uid", "22105",
        "--secret", f"source=twice,target={TARGET},previous",
        "--secret", f"source=twice,target={PREVIOUS}",
    )  # fmt: skip
    assert f"share the target '{PREVIOUS}'" in refused
