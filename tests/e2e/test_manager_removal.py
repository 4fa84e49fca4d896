"""Managers leave while writes go on: a dead one is replaced, the leader goes, and what would cost
the quorum is refused."""

import pytest

from tests.e2e.test_managers import Writer
from tests.support.command_line import CommandLine
from tests.support.running import ManagerProcess, RunningCluster, running_cluster, wait_until

pytestmark = pytest.mark.slow
REMOVE = ("manager", "rm")


def _shell(cluster: RunningCluster) -> CommandLine:
    """Return the shell of an admin, enrolled as a person is."""
    shell = CommandLine(cluster.base / "shell")
    token = cluster.ok("POST", "/v1/operators", {"name": "ada", "role": "admin"})["token"]
    managers = [word for one in cluster.managers for word in ("--manager", one.join)]
    shell.ok("operator", "enrol", *managers, stdin=str(token).encode())
    return shell


def _states(cluster: RunningCluster) -> dict[str, str]:
    managers = cluster.ok("GET", "/v1/managers")["managers"]
    return {str(one["name"]): str(one["state"]) for one in managers}


def _same_place(cluster: RunningCluster, lost: ManagerProcess) -> ManagerProcess:
    """Return an empty manager of the name and the addresses of one that is lost."""
    fresh = ManagerProcess(lost.name, cluster.base / f"{lost.name}-again", lost.env, None)
    words = ["--data-dir", "--run-dir"]
    fresh.argv = [
        str(fresh.base / word.rpartition("/")[2]) if before in words else word
        for before, word in zip(["", *lost.argv], lost.argv, strict=False)
    ]
    fresh.api_port, fresh.join_port, fresh.peer_port = lost.api_port, lost.join_port, lost.peer_port
    cluster.managers[cluster.managers.index(lost)] = fresh
    fresh.start()
    return fresh


def test_managers_leave_while_writes_go_on() -> None:
    """One cluster, in order: refused, a dead one out, another in its place, the leader out."""
    with running_cluster(managers=3, agents=1, engine="etcd") as cluster:
        shell = _shell(cluster)
        lost = next(one for one in cluster.managers if one is not cluster.leader())
        stays = [one for one in cluster.managers if one is not lost]
        lost.kill()
        wait_until(lambda: _states(cluster)[lost.name] == "down or locked", "its sign of life ends")

        refused = shell.run(*REMOVE, stays[0].name)
        assert refused.code == 1
        assert "there would be 1 of 2 managers, and a majority takes 2" in refused.stderr
        assert f"start and unlock {lost.name} first" in refused.stderr
        assert set(_states(cluster)) == {"m1", "m2", "m3"}

        taken = cluster.ok("POST", "/v1/tokens", {"role": "manager"})["token"]
        with Writer(cluster) as writer:
            writer.cluster = RunningCluster(
                cluster.base, "etcd", cluster.env, stays, operator=cluster.operator
            )
            wait_until(lambda: len(writer.acknowledged) > 5, "writes go on")
            fresh = _same_place(cluster, lost)
            body = {
                "unlock_key": cluster.unlock_key,
                "token": taken,
                "managers": [one.join for one in stays],
            }
            last = fresh.admin_steps("/admin/join", body)[-1]
            assert last["error"]["code"] == "already_exists", last

            done = shell.run(*REMOVE, lost.name)
            assert (done.code, done.stdout) == (0, f"manager {lost.name} removed\n"), done
            assert "tolerate no failure" in done.stderr
            assert set(_states(cluster)) == {one.name for one in stays}
            assert fresh.admin_steps("/admin/join", body)[-1] == {"done": True}
            assert _states(cluster) == dict.fromkeys(("m1", "m2", "m3"), "ready")
            before = len(writer.acknowledged)
            wait_until(lambda: len(writer.acknowledged) > before + 5, "writes still go on")
        assert writer.failures == []

        cluster.create_secret("kept", b"one")
        cluster.create_service("app", 25_101, "kept")
        leader = cluster.leader()
        assert shell.ok(*REMOVE, leader.name) == f"manager {leader.name} removed\n"
        wait_until(lambda: not leader.running, "the removed manager ends by itself")
        assert "was removed from the cluster" in leader.text()
        remaining = [one for one in cluster.managers if one is not leader]
        assert {one["name"] for one in cluster.ok("GET", "/v1/managers")["managers"]} == {
            one.name for one in remaining
        }
        cluster.rotate("kept", b"two")
        assert cluster.agents[0].read("app", "kept") == b"two"

        leader.start()
        last = leader.admin_steps("/admin/unlock", {"unlock_key": cluster.unlock_key})[-1]
        assert "was removed from the cluster" in last["error"]["message"], last
