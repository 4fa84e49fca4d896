"""Three managers on etcd: joining under load, losing all of them, and a leader lost on the way."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import pytest

from tests.support.command_line import CommandLine
from tests.support.running import (
    ManagerProcess,
    RunningCluster,
    empty_cluster,
    running_cluster,
    wait_until,
)


@dataclass
class Writer:
    """Creates secrets one after another, from a thread, and remembers what was acknowledged."""

    cluster: RunningCluster
    acknowledged: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._write)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        number = 0
        while not self._stop.wait(0.01):
            number += 1
            name = f"written-{number}"
            answer = self.cluster.call(
                "POST", f"/v1/secrets?name={name}", b"value", managers=self.cluster.managers[:1]
            )
            if answer.status == 201:
                self.acknowledged.append(name)
            else:
                self.failures.append(f"{answer.status} {answer.body}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """One manager and two agents; two managers join in the first test."""
    with running_cluster(managers=1, agents=2, engine="etcd") as running:
        yield running


def _names(cluster: RunningCluster, manager: ManagerProcess) -> set[str]:
    answer = cluster.call("GET", "/v1/secrets", managers=[manager])
    assert answer.status == 200, answer.body
    return {secret["name"] for secret in answer.body["secrets"]}


def test_managers_join_while_writes_go_on(cluster: RunningCluster) -> None:
    """No write fails while the second and third join, and each newcomer has all of them."""
    with Writer(cluster) as writer:
        wait_until(lambda: len(writer.acknowledged) > 5, "writes go on")
        for _ in range(2):
            cluster.join_manager(cluster.add_manager())
        before = len(writer.acknowledged)
        wait_until(lambda: len(writer.acknowledged) > before + 5, "writes still go on")
    assert writer.failures == []
    for manager in cluster.managers:
        assert set(writer.acknowledged) <= _names(cluster, manager)
    managers = cluster.ok("GET", "/v1/managers")["managers"]
    assert {one["name"] for one in managers} == {"m1", "m2", "m3"}


def test_a_write_is_read_on_every_manager_at_once(cluster: RunningCluster) -> None:
    """The revision of an answer, sent to another manager, makes it wait until it has that state."""
    first, second, third = cluster.managers
    for number in range(15):
        name = f"seen-{number}"
        assert (
            cluster.call("POST", f"/v1/secrets?name={name}", b"value", managers=[first]).status
            == 201
        )
        for other in (second, third):
            found = cluster.call("GET", f"/v1/secrets/{name}", managers=[other])
            assert found.status == 200, (number, other.name, found.body)


def test_an_agent_finds_another_manager(cluster: RunningCluster) -> None:
    """Kill -9 of the manager that serves an agent: the file stays, the next rotation arrives by
    another, and the manager is unlocked and one of three again."""
    cluster.create_secret("failover", b"one")
    cluster.create_service("failover", 25_001, "failover", replicas=2)
    agent = cluster.agents[0]
    identities = {one["id"]: one["name"] for one in cluster.ok("GET", "/v1/managers")["managers"]}
    serving = identities[cluster.node(agent.name)["manager"]]
    manager = next(one for one in cluster.managers if one.name == serving)
    manager.kill()
    assert agent.read("failover", "failover") == b"one"
    cluster.rotate("failover", b"two")
    assert [one.read("failover", "failover") for one in cluster.agents] == [b"two", b"two"]
    manager.start()
    assert manager.state() == "locked"
    manager.unlock(cluster.unlock_key)
    assert "failover" in _names(cluster, manager)


def test_all_managers_lost_at_once_lose_nothing(cluster: RunningCluster) -> None:
    """Kill -9 of all: files stay; locked, each unlock waits for a majority and says so; agents come
    back by themselves, and everything acknowledged is there."""
    cluster.create_secret("survivor", b"one")
    cluster.create_service("survivor", 25_010, "survivor", replicas=2)
    before = _names(cluster, cluster.managers[0])
    for manager in cluster.managers:
        manager.kill()
    assert [agent.read("survivor", "survivor") for agent in cluster.agents] == [b"one", b"one"]
    for manager in cluster.managers:
        manager.start()
        assert manager.state() == "locked"
    first, second, third = cluster.managers
    shell = CommandLine(cluster.base / "unlocker")
    key_file = shell.home / "key"
    key_file.write_text(cluster.unlock_key)

    def unlocking(manager: ManagerProcess) -> tuple[str, ...]:
        socket = str(manager.admin_socket)
        return ("unlock", "--key-file", str(key_file), "--admin-socket", socket)

    waiting = shell.start(*unlocking(first))
    try:
        wait_until(lambda: "waiting for quorum, 1 of 2" in waiting.text(), "the first waits")
        assert waiting.running
        assert shell.ok(*unlocking(second)).endswith("unlocked\n")
        assert waiting.wait() == 0
    finally:
        waiting.kill()
    assert waiting.text().endswith("unlocked\n")
    shell.ok(*unlocking(third))
    for manager in cluster.managers:
        assert before <= _names(cluster, manager)
    cluster.rotate("survivor", b"two")
    assert [agent.read("survivor", "survivor") for agent in cluster.agents] == [b"two", b"two"]


def test_a_wrong_unlock_key_does_not_spend_the_token(cluster: RunningCluster) -> None:
    """A joiner with another unlock key is refused, and the same token still admits it with the
    right one."""
    cluster.create_secret("before-the-newcomer", b"x")
    newcomer = cluster.add_manager()
    made = cluster.ok("POST", "/v1/tokens", {"role": "manager"})
    token = made["token"]
    wrong = newcomer.admin("POST", "/admin/unlock-key").body["unlock_key"]
    addresses = [one.join for one in cluster.managers if one is not newcomer]
    body = {"unlock_key": wrong, "token": token, "managers": addresses}
    last = newcomer.admin_steps("/admin/join", body)[-1]
    assert last["error"]["code"] == "permission_denied", last
    (left,) = [
        t["uses_left"] for t in cluster.ok("GET", "/v1/tokens")["tokens"] if t["id"] == made["id"]
    ]
    assert left == 1
    steps = newcomer.admin_steps("/admin/join", {**body, "unlock_key": cluster.unlock_key})
    assert steps[-1] == {"done": True}, steps
    assert "before-the-newcomer" in _names(cluster, newcomer)


@pytest.mark.parametrize("engine", ["sqlite", "etcd"])
def test_an_interrupted_founding_is_repeated(engine: str) -> None:
    """Kill -9 while a cluster is being founded: the same `init` goes through afterwards."""
    with empty_cluster(engine) as cluster:
        manager = cluster.add_manager()
        shell = CommandLine(cluster.base / "shell")
        words = (
            "init", "--engine", engine, "--admin-socket", str(manager.admin_socket),
            "--unlock-key-file",
        )  # fmt: skip
        for attempt in range(3):
            founding = shell.start(*words, str(shell.home / f"key-{attempt}"))
            try:
                mark = manager.base / "data" / "founding"
                while founding.running and not mark.exists():
                    pass  # it stands there for an instant only
                manager.kill()
                founding.wait()
            finally:
                founding.kill()
            manager.start()
            if manager.state() == "locked":
                # It was over before it could be interrupted: then it is there as a whole.
                manager.unlock((shell.home / f"key-{attempt}").read_text().strip())
                return
        key_file = shell.home / "key"
        shell.ok(*words, str(key_file))
        shell.ok("secret", "create", "first", "-", stdin=b"value")
        manager.kill()
        manager.start()
        manager.unlock(key_file.read_text().strip())
        assert shell.ok("secret", "ls", "-q") == "first\n"
