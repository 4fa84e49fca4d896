"""Two of three managers are destroyed: the third goes on alone, by somebody's consent."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.command_line import CommandLine
from tests.support.running import ManagerProcess, running_cluster

pytestmark = pytest.mark.slow
RECOVER = ("store", "recover-quorum")


@pytest.mark.threat("T-52")
def test_a_survivor_becomes_the_cluster() -> None:
    """One cluster, in order: refused while there is a quorum and while it is locked, recovered; an
    agent follows with its files, the old majority comes back and does not serve, a new manager
    joins."""
    with running_cluster(managers=3, agents=1, engine="etcd") as cluster:
        shell = CommandLine(cluster.base / "shell")
        survivor, *others = cluster.managers
        here = ("--admin-socket", str(survivor.admin_socket))
        cluster.create_secret("db", b"one")
        cluster.create_service("app", 25_301, "db")
        (agent,) = cluster.agents

        refused = shell.run(*RECOVER, "--yes", *here)
        assert refused.code == 1
        assert "the quorum is not lost" in refused.stderr

        for manager in cluster.managers:
            manager.kill()
        survivor.start()
        locked = shell.run(*RECOVER, "--yes", *here)
        assert locked.code == 5, locked
        key_file = shell.home / "key"
        key_file.write_text(cluster.unlock_key)
        shell.ok("unlock", "--detach", "--key-file", str(key_file), *here)
        unasked = shell.run(*RECOVER, *here)
        assert unasked.code == 1
        assert "2 of 3 managers do not answer" in unasked.stderr
        assert "needs somebody's consent" in unasked.stderr
        assert survivor.state() == "starting"

        recovered = shell.ok(*RECOVER, "--yes", *here)
        assert "this manager is the whole cluster now" in recovered
        cluster.managers = [survivor]
        names = [one["name"] for one in cluster.ok("GET", "/v1/managers")["managers"]]
        assert names == [survivor.name]
        assert agent.read("app", "db") == b"one"
        cluster.rotate("db", b"two")
        assert agent.read("app", "db") == b"two"

        with ThreadPoolExecutor() as pool:
            for said in pool.map(lambda old: _come_back(old, cluster.unlock_key), others):
                assert "recovered without this manager" in said
        for old in others:
            old.kill()
            shutil.rmtree(old.base)  # their names are free, their data are worth nothing

        cluster.join_manager(cluster.add_manager())
        states = {one["state"] for one in cluster.ok("GET", "/v1/managers")["managers"]}
        assert states == {"ready"}
        cluster.rotate("db", b"three")
        assert agent.read("app", "db") == b"three"


def _come_back(old: ManagerProcess, unlock_key: str) -> str:
    """Start a manager that was given up on its old disk; return how its unlocking ended."""
    old.start()
    last = old.admin_steps("/admin/unlock", {"unlock_key": unlock_key})[-1]
    return str(last["error"]["message"]) if "error" in last else str(last)
