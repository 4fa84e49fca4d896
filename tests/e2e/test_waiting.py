"""A command waits until what it asked for is true, and names who did not answer."""

import json
from collections.abc import Iterator

import pytest

from tests.support.command_line import CommandLine
from tests.support.running import RunningCluster, running_cluster, wait_until


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """One manager on SQLite and two agents that both run `wide`."""
    with running_cluster(agents=2) as running:
        running.create_secret("credential", b"1")
        running.create_service("wide", 22_001, "credential", replicas=2)
        yield running


@pytest.fixture(scope="module")
def shell(cluster: RunningCluster) -> CommandLine:
    """A shell with a context of its own."""
    shell = CommandLine(cluster.base / "shell")
    socket = str(cluster.managers[0].admin_socket)
    shell.ok("operator", "renew", "admin", "--admin-socket", socket)
    return shell


def test_rotate_returns_when_every_file_has_it(cluster: RunningCluster, shell: CommandLine) -> None:
    """The moment the command returns, each node's file holds the new value."""
    for number in range(2, 7):
        value = f"value {number}".encode()
        said = shell.ok("secret", "rotate", "credential", "-", stdin=value)
        assert [agent.read("wide", "credential") for agent in cluster.agents] == [value, value]
        assert said.startswith(f"version {number} on 2 of 2 nodes in ")


def test_the_node_that_does_not_answer_is_named_and_the_change_stays(
    cluster: RunningCluster, shell: CommandLine
) -> None:
    """With one agent stopped: exit 4, its name, the other node served; it follows when it goes on.
    Detached, the command does not wait at all."""
    stopped, other = cluster.agents
    stopped.pause()
    try:
        done = shell.run("secret", "rotate", "credential", "--timeout", "1s", stdin=b"while away")
        assert done.code == 4
        assert stopped.name in done.stderr
        assert other.name not in done.stderr
        assert "the change stays" in done.stderr
        assert other.read("wide", "credential") == b"while away"
        done = shell.run(
            "secret", "rotate", "credential", "--timeout", "500ms", "--format", "json",
            stdin=b"again",
        )  # fmt: skip
        assert done.code == 4
        progress = json.loads(done.stdout)["progress"]
        assert progress["done"] is False
        states = {target["node"]: target["state"] for target in progress["targets"]}
        assert states[stopped.name] != "done"
        assert states[other.name] == "done"
        detached = shell.run("secret", "rotate", "credential", "--detach", stdin=b"detached")
        assert detached.code == 0
        assert "not waiting" in detached.stdout
    finally:
        stopped.resume()
    wait_until(
        lambda: stopped.read("wide", "credential") == b"detached", "the stopped node follows"
    )
    wait_until(
        lambda: all(
            one["version_desired"] == one["version_mounted"]
            for task in cluster.ok("GET", "/v1/services/wide/tasks")["tasks"]
            for one in task["references"]
        ),
        "service ps agrees",
    )


def test_a_service_that_fits_nowhere_waits_and_says_so(shell: CommandLine) -> None:
    """Exit 4, no node fits; the service exists, and is placed as soon as one does."""
    error = shell.refused(
        4, "service", "create", "nowhere", "--secret", "credential",
        "--constraint", "node.labels.zone==moon", "--uid", "22002", "--timeout", "1s",
    )  # fmt: skip
    assert "no node fits yet" in error
    assert shell.json("service", "inspect", "nowhere")["name"] == "nowhere"
    shell.ok("node", "label", "n1", "--label-add", "zone=moon")
    wait_until(
        lambda: shell.json("service", "ps", "nowhere")[0]["references"][0]["version_mounted"],
        "the service is placed",
    )
