"""Two of three managers are destroyed: the third becomes the cluster, by somebody's consent."""

import shutil

import pytest

from tests.support.command_line import CommandLine
from tests.support.running import running_cluster, wait_until

pytestmark = pytest.mark.slow
RECOVER = ("manager", "recover-quorum")


def test_a_survivor_becomes_the_cluster() -> None:  # noqa: PLR0915  # one cluster's story
    """One cluster, in order: refused while there is a quorum, killed half-way, recovered; an agent
    follows, an old manager does not, and new ones join."""
    with running_cluster(managers=3, agents=1, engine="etcd") as cluster:
        shell = CommandLine(cluster.base / "shell")
        survivor, kept, destroyed = cluster.managers
        here = ("--admin-socket", str(survivor.admin_socket))
        cluster.create_secret("db", b"one")
        cluster.create_service("app", 25_301, "db")
        (agent,) = cluster.agents

        refused = shell.run(*RECOVER, "--yes", *here)
        assert refused.code == 1
        assert "the quorum is not lost" in refused.stderr

        for lost in (kept, destroyed):
            lost.kill()
        shutil.rmtree(destroyed.base / "data")
        survivor.kill()
        survivor.start()
        locked = shell.run(*RECOVER, "--yes", *here)
        assert locked.code == 5, locked
        key_file = shell.home / "key"
        key_file.write_text(cluster.unlock_key)
        shell.ok("unlock", "--detach", "--key-file", str(key_file), *here)
        unasked = wait_until(
            lambda: (done := shell.run(*RECOVER, *here)).code == 1 and done,
            "the loss is seen",
        )
        assert "2 of 3 managers do not answer" in unasked.stderr
        assert "needs somebody's consent" in unasked.stderr
        assert survivor.state() == "starting"

        recovering = shell.start(*RECOVER, "--yes", *here)
        mark = survivor.base / "data" / "recovering-quorum"
        while recovering.running and not mark.exists():
            pass  # the kill comes as soon as it is decided
        survivor.kill()
        recovering.wait()
        recovering.kill()
        survivor.start()
        survivor.unlock(cluster.unlock_key)
        assert not mark.exists()
        cluster.managers = [survivor]
        cluster.revision = ""
        names = [one["name"] for one in cluster.ok("GET", "/v1/managers")["managers"]]
        assert names == [survivor.name]
        assert agent.read("app", "db") == b"one"
        cluster.rotate("db", b"two")
        assert agent.read("app", "db") == b"two"

        kept.start()
        last = kept.admin_steps("/admin/unlock", {"unlock_key": cluster.unlock_key})[-1]
        assert "was removed from the cluster" in last["error"]["message"], last
        kept.kill()
        for old in (kept, destroyed):
            shutil.rmtree(old.base)  # their names are free, their data are worth nothing

        for _ in range(2):
            cluster.join_manager(cluster.add_manager())
        states = {one["state"] for one in cluster.ok("GET", "/v1/managers")["managers"]}
        assert states == {"ready"}
        survivor.kill()
        cluster.rotate("db", b"three")
        assert agent.read("app", "db") == b"three"
        survivor.start()
        survivor.unlock(cluster.unlock_key)
        assert len(cluster.ok("GET", "/v1/managers")["managers"]) == 3
