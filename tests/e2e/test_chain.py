"""The main job, as shipped: a sealed store issues secrets to services on a tmpfs, and rotates them
in place."""

import shutil

import pytest

from tests.support.running import running_cluster, wait_until


def test_a_secret_reaches_its_service_and_is_rotated_in_place() -> None:
    """One manager on SQLite, one agent: create, place, mount, rotate; the file changes, the mount
    does not."""
    with running_cluster(agents=1) as cluster:
        (agent,) = cluster.agents
        cluster.create_secret("db-password", b"\x00first\xff")
        cluster.create_service("red", 20_001, "db-password")
        assert agent.read("red", "db-password") == b"\x00first\xff"
        before = (agent.mount("red")).stat().st_dev
        assert cluster.rotate("db-password", b"second") == 2
        assert agent.read("red", "db-password") == b"second"
        assert (agent.mount("red")).stat().st_dev == before
        (task,) = cluster.ok("GET", "/v1/services/red/tasks")["tasks"]
        (reference,) = task["references"]
        assert (reference["version_desired"], reference["version_mounted"]) == (2, 2)


def test_three_managers_lose_their_leader_and_nothing_else() -> None:
    """Kill -9 of the leader: the files stay, a rotation succeeds; the restarted manager is locked
    until unlocked."""
    with running_cluster(managers=3, engine="etcd", agents=2) as cluster:
        cluster.create_secret("credential", b"one")
        cluster.create_service("twitter", 20_003, "credential", replicas=2)
        leader = cluster.leader()
        leader.kill()
        assert all(agent.read("twitter", "credential") == b"one" for agent in cluster.agents)
        cluster.rotate("credential", b"two")
        assert all(agent.read("twitter", "credential") == b"two" for agent in cluster.agents)
        leader.start()
        assert leader.state() == "locked"
        leader.unlock(cluster.unlock_key)
        wait_until(
            lambda: cluster.call("GET", "/v1/status", managers=[leader]).status == 200,
            "the restarted manager serves",
        )


@pytest.mark.parametrize("engine", ["sqlite", "etcd"])
def test_a_manager_whose_engine_lost_its_data_makes_no_cluster_of_its_own(engine: str) -> None:
    """Unlocking says what is gone, and leaves the place as it is."""
    with running_cluster(engine=engine) as cluster:
        (manager,) = cluster.managers
        manager.kill()
        data = manager.base / "data" / "engine"
        shutil.rmtree(data)
        manager.start()
        last = manager.admin_steps("/admin/unlock", {"unlock_key": cluster.unlock_key})[-1]
        assert last["error"]["code"] == "integrity_error"
        assert manager.state() == "locked"
        assert not data.exists()
