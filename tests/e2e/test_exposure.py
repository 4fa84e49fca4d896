"""A node is compromised: what it may have had is told, it wipes, and what it held is rotated."""

import json
from collections.abc import Iterator

import pytest

from tests.support.command_line import CommandLine
from tests.support.running import RunningCluster, running_cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """One manager on SQLite and two agents; `wide` on both, `narrow` on the first."""
    with running_cluster(agents=2) as running:
        for name in ("credential", "key", "unused"):
            running.create_secret(name, name.encode())
        running.create_service("wide", 23_001, "credential", replicas=2)
        running.create_service("narrow", 23_002, "key", constraints=["node.name==n1"])
        yield running


def test_a_compromised_node_is_evicted_with_what_it_held(cluster: RunningCluster) -> None:
    shell = CommandLine(cluster.base / "shell")
    socket = str(cluster.managers[0].admin_socket)
    shell.ok("operator", "renew", "admin", "--admin-socket", socket)

    where = json.loads(shell.ok("secret", "where", "credential", "--format", "json"))
    assert {(row["node"], row["service"], row["version"]) for row in where["receipts"]} == {
        ("n1", "wide", 1),
        ("n2", "wide", 1),
    }
    assert all(row["acked_at"] and row["held"] for row in where["receipts"])
    exposure = json.loads(shell.ok("node", "exposure", "n1", "--format", "json"))
    assert [row["secret"] for row in exposure["receipts"]] == ["credential", "key"]
    assert (exposure["live"], exposure["held"]) == (2, 2)

    said = shell.ok("node", "evict", "n1", "--rotate")
    assert "its agent reported that it wiped what it held" in said
    assert "rotating 0, must be rotated 2, nothing to do 0" in said
    stolen, other = cluster.agents
    assert stolen.read("wide", "credential") is None
    assert other.read("wide", "credential") == b"credential"
    done = shell.run("secret", "ls")
    assert "secret credential must be rotated: node n1 was evicted" in done.stderr
    assert "secret key must be rotated" in done.stderr
    assert "unused" not in done.stderr
    assert "secrets to rotate because a node that held them was evicted: 2" in shell.ok("status")

    shell.ok("secret", "rotate", "credential", "-", stdin=b"fresh")
    assert other.read("wide", "credential") == b"fresh"
    again = json.loads(shell.ok("node", "evict", "n1", "--rotate", "--format", "json"))
    outcomes = {row["secret"]: row["outcome"] for row in again["secrets"]}
    assert outcomes == {"credential": "nothing to do", "key": "must be rotated"}
    exposure = json.loads(shell.ok("node", "exposure", "n1", "--format", "json"))
    assert (exposure["state"], exposure["held"], exposure["versions"]) == ("evicted", 0, 2)
    assert [row["live"] for row in exposure["receipts"] if row["secret"] == "key"] == [True]
