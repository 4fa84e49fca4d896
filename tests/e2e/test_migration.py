"""A cluster that began on SQLite moves to etcd: under an agent, by kill -9 at every step, and on to
three managers."""

import contextlib
import json
from collections.abc import Iterator

import pytest

from cluster.protocol.errors import ClusterError
from cluster.protocol.https_client import stream_lines
from tests.support.etcd_cluster import need_etcd
from tests.support.running import ManagerProcess, RunningCluster, empty_cluster, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """One manager on SQLite that has etcd at hand, and an agent with a mounted secret."""
    with empty_cluster("sqlite") as cluster:
        cluster.manager_flags = ("--etcd", str(need_etcd()))
        cluster.found()
        cluster.add_agent()
        cluster.create_secret("db", b"one")
        cluster.create_service("app", 25_201, "db")
        yield cluster


def _migrating(manager: ManagerProcess) -> Iterator[str]:
    """Ask for the migration and yield its steps as they are told."""
    body = json.dumps({"to": "etcd"}).encode()
    with stream_lines(
        [f"unix:{manager.admin_socket}"], "POST", "/admin/migrate", body=body, timeout_s=90
    ) as reply:
        for line in reply.lines():
            step = json.loads(line)
            assert "error" not in step, step
            yield str(step.get("step", ""))


def _kind(cluster: RunningCluster) -> str:
    return str(cluster.ok("GET", "/v1/status")["engine"]["kind"])


def test_killed_around_the_commit_it_is_one_store_or_the_other(cluster: RunningCluster) -> None:
    """Kill -9 before the tombstone, about when it is written, and after it: nothing acknowledged
    is lost, and in the end it is on etcd. Every step is cut short in tests/unit/test_migrating."""
    (manager,) = cluster.managers
    (agent,) = cluster.agents
    kinds, created = [], {"db"}
    for last in ("comparing", "moving over", "opening the store"):
        cluster.create_secret(f"before-{len(created)}", b"value")
        created.add(f"before-{len(created)}")
        with contextlib.suppress(ClusterError, OSError):
            any(step == last for step in _migrating(manager))
        manager.kill()
        assert agent.read("app", "db") == b"one"
        manager.start()
        assert manager.state() == "locked"
        manager.unlock(cluster.unlock_key)
        kinds.append(_kind(cluster))
        assert {one["name"] for one in cluster.ok("GET", "/v1/secrets")["secrets"]} == created
        if kinds[-1] == "etcd":
            break
    assert kinds[0] == "sqlite"
    assert kinds[-1] == "etcd"
    levels = {one["level"] for one in cluster.ok("GET", "/v1/status")["findings"]}
    assert levels <= {"weak"}


def test_agents_come_back_and_managers_join(cluster: RunningCluster) -> None:
    """The agent follows into the store's new life by itself, and two managers join."""
    (agent,) = cluster.agents
    cluster.rotate("db", b"two")
    assert agent.read("app", "db") == b"two"
    cluster.engine = "etcd"
    cluster.manager_flags = ()
    for _ in range(2):
        cluster.join_manager(cluster.add_manager())
    states = {one["state"] for one in cluster.ok("GET", "/v1/managers")["managers"]}
    assert states == {"ready"}
    cluster.managers[0].kill()
    cluster.rotate("db", b"three")
    wait_until(lambda: agent.read("app", "db") == b"three", "another manager serves the agent")


def test_migration_goes_through_under_an_agent() -> None:
    """Without a crash: the session comes back by itself, and nothing has to be unlocked."""
    with empty_cluster("sqlite") as cluster:
        cluster.manager_flags = ("--etcd", str(need_etcd()))
        cluster.found()
        agent = cluster.add_agent()
        cluster.create_secret("db", b"one")
        cluster.create_service("app", 25_202, "db")
        (manager,) = cluster.managers
        assert list(_migrating(manager))[-1] == ""
        assert _kind(cluster) == "etcd"
        cluster.rotate("db", b"two")
        assert agent.read("app", "db") == b"two"
        token = cluster.ok("POST", "/v1/tokens", {"role": "manager"})
        assert token["role"] == "manager"
