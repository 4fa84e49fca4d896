"""Changes that go out in groups on real nodes: a refused credential takes itself back, what does
not answer stops a change, and a manager's death between two steps changes nothing."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.command_line import CommandLine
from tests.support.running import RunningCluster, running_cluster, wait_until

UID = 22_301
CHECK = (
    "--health-cmd", '["/bin/grep", "-q", "^good", "/run/secrets/credential"]',
    "--health-interval", "500ms", "--health-retries", "1",
)  # fmt: skip
POLICY = (
    "--update-canary", "1", "--update-parallelism", "1", "--update-monitor", "100ms",
    "--update-patience", "30s",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """One manager on SQLite and three agents."""
    with running_cluster(agents=3) as running:
        yield running


@pytest.fixture(scope="module")
def shell(cluster: RunningCluster) -> CommandLine:
    """A shell, and on every node a service that refuses a credential which is not good."""
    shell = CommandLine(cluster.base / "shell")
    socket = str(cluster.managers[0].admin_socket)
    shell.ok("operator", "renew", "admin", "--admin-socket", socket)
    shell.ok("secret", "create", "credential", "-", stdin=b"good 1")
    shell.ok(
        "service", "create", "app", "--secret", "credential", "--global", "--uid", str(UID),
        *CHECK, *POLICY, "--update-failure-action", "rollback",
    )  # fmt: skip
    return shell


def held(cluster: RunningCluster) -> list[bytes | None]:
    return [agent.read("app", "credential") for agent in cluster.agents]


def issued(cluster: RunningCluster, version: int) -> set[str]:
    """Return the names of the nodes that ever were to receive a version."""
    where = cluster.ok("GET", "/v1/secrets/credential/where")
    return {one["node"] for one in where["receipts"] if one["version"] == version}


def newest(shell: CommandLine) -> dict[str, Any]:
    return dict(shell.json("rollout", "ls")[0])


def test_a_good_credential_goes_from_node_to_node(
    cluster: RunningCluster, shell: CommandLine
) -> None:
    """The command tells each node, and one node follows the other."""
    said = shell.ok("secret", "rotate", "credential", "-", stdin=b"good 2")
    assert held(cluster) == [b"good 2"] * 3
    done = re.findall(r"^(n\d) \(service app\): done$", said, re.MULTILINE)
    assert sorted(done) == ["n1", "n2", "n3"]
    assert "version 2 on 3 of 3 nodes in " in said
    told = [line.split()[-1] for line in said.splitlines() if "(service app)" in line]
    assert told == ["released", "done"] * 3


def test_a_refused_credential_takes_itself_back(
    cluster: RunningCluster, shell: CommandLine
) -> None:
    """Only the canary ever gets what its service refuses, and it gets back what it had."""
    done = shell.run("secret", "rotate", "credential", "-", stdin=b"bad")
    assert done.code == 6, done
    assert "version 3 was rolled back: app on " in done.stderr
    assert "unhealthy: exit status 1" in done.stderr
    assert held(cluster) == [b"good 2"] * 3
    assert len(issued(cluster, 3)) == 1
    versions = {one["number"]: one for one in shell.json("secret", "versions", "credential")}
    assert (versions[2]["state"], versions[3]["state"]) == ("primary", "retired")
    assert newest(shell)["state"] == "rolled_back"


def test_a_paused_change_is_taken_back_or_goes_on(
    cluster: RunningCluster, shell: CommandLine
) -> None:
    """With `pause` the others keep the old value until an operator decides."""
    shell.ok("service", "update", "app", "--update-failure-action", "pause")
    done = shell.run("secret", "rotate", "credential", "-", stdin=b"bad again")
    assert done.code == 6, done
    assert "is paused on 0 of 3 nodes: app on " in done.stderr
    assert sorted(value or b"" for value in held(cluster)) == [b"bad again", b"good 2", b"good 2"]
    rollout = newest(shell)["id"]
    assert f"strongroom rollout resume {rollout}" in done.stderr
    assert "exit status 1" in shell.refused(6, "rollout", "resume", rollout)
    said = shell.ok("rollout", "rollback", rollout)
    assert "version 4 is rolled back" in said
    assert held(cluster) == [b"good 2"] * 3
    assert len(issued(cluster, 4)) == 1


@pytest.mark.slow
def test_a_node_that_does_not_answer_stops_the_change(
    cluster: RunningCluster, shell: CommandLine
) -> None:
    """It counts as failed once its time is over; resumed with the node, the change goes on."""
    stopped = cluster.agents[1]
    stopped.pause()
    try:
        done = shell.run(
            "secret", "rotate", "credential", "-", "--canary", "0", "--patience", "3s",
            "--parallelism", "0", "--on-failure", "pause", stdin=b"good 5",
        )  # fmt: skip
    finally:
        stopped.resume()
    assert done.code == 6, done
    assert f"app on {stopped.name}: its files are not in place" in done.stderr
    # Its time counts from the resumption: on a busy machine the node may need longer to come back.
    wait_until(lambda: held(cluster) == [b"good 5"] * 3, "the node that was stopped has caught up")
    shell.run("rollout", "resume", newest(shell)["id"])
    wait_until(lambda: newest(shell)["state"] == "finished", "the change is on every node")


def test_a_spec_goes_out_and_back_as_a_credential_does(
    cluster: RunningCluster, shell: CommandLine
) -> None:
    """A check that fails on the canary brings the spec before back, under a new number."""
    shell.ok("secret", "create", "further", "-", stdin=b"further")
    number = shell.json("service", "inspect", "app")["spec_number"]
    done = shell.run(
        "service", "update", "app", "--secret-add", "further", "--health-cmd", "/bin/false",
        "--update-failure-action", "rollback",
    )  # fmt: skip
    assert done.code == 6, done
    assert "was rolled back: app on " in done.stderr
    shown = shell.json("service", "inspect", "app")
    assert shown["spec_number"] == number + 2
    assert [one["source"] for one in shown["spec"]["references"]] == ["credential"]
    where = cluster.ok("GET", "/v1/secrets/further/where")
    assert len({one["node"] for one in where["receipts"]}) == 1
    wait_until(
        lambda: all(agent.read("app", "further") is None for agent in cluster.agents),
        "the file of the failed spec is gone",
    )


@pytest.mark.slow
def test_a_manager_dies_between_every_two_steps(
    cluster: RunningCluster, shell: CommandLine
) -> None:
    """Each step is whole or not taken: one node after the other, whoever takes the next step."""
    shell.ok("secret", "rotate", "credential", "-", "--detach", stdin=b"good 6")
    rollout = newest(shell)["id"]
    seen = [_shown(cluster, rollout)]
    while not seen[-1]["done"]:
        _restart(cluster)
        seen.append(_next(cluster, rollout, seen[-1]["step"]))
    assert seen[-1]["state"] == "finished"
    assert all(_in_flight(one) <= 1 for one in seen)
    assert held(cluster) == [b"good 6"] * 3


def _shown(cluster: RunningCluster, rollout: str) -> dict[str, Any]:
    return cluster.ok("GET", f"/v1/rollouts/{rollout}")


def _next(cluster: RunningCluster, rollout: str, step: int) -> dict[str, Any]:
    """Return the rollout after its next step."""
    found: dict[str, Any] = wait_until(
        lambda: (
            (shown := cluster.ok("GET", f"/v1/rollouts/{rollout}?wait=10&after={step}"))["step"]
            != step
            and shown
        ),
        "the next manager takes the next step",
    )
    return found


def _in_flight(rollout: dict[str, Any]) -> int:
    if rollout["state"] != "running":
        return 0
    return sum(target["state"] == "released" for target in rollout["targets"])


def _restart(cluster: RunningCluster) -> None:
    (manager,) = cluster.managers
    manager.kill()
    manager.start()
    cluster.unlock_all()
