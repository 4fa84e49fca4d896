"""Manager and agent under a supervisor: ready when they answer, and how they stand in a line."""

from pathlib import Path

import pytest

from tests.support.notified import notify_socket
from tests.support.processes import children_of
from tests.support.running import ManagerProcess, running_cluster, wait_until


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def watched(process: ManagerProcess, address: str) -> None:
    process.env |= {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000"}


@pytest.mark.slow
def test_manager_and_agent_tell_how_they_stand() -> None:
    with running_cluster(agents=1, engine="etcd") as cluster:
        (manager,), (agent,) = cluster.managers, cluster.agents
        with notify_socket(cluster.base / "notify-m") as told:
            manager.stop()
            watched(manager, told.address)
            manager.start()
            wait_until(lambda: "READY=1" in told.heard(), "a locked manager is ready")
            assert told.lines[:2] == ["READY=1", "STATUS=locked; run `strongroom unlock` as root"]
            manager.unlock(cluster.unlock_key)
            wait_until(lambda: "STATUS=serving" in told.heard(), "the manager serves")
            assert "WATCHDOG=1" in told.lines
            (member,) = children_of(manager.pid)
            assert b"NOTIFY_SOCKET" not in environment_of(member)
            with notify_socket(cluster.base / "notify-a") as heard:
                agent.stop()
                agent.env["NOTIFY_SOCKET"] = heard.address
                agent.start()
                line = "STATUS=in session with a manager"
                wait_until(lambda: line in heard.heard(), "the agent is in session")
                assert heard.lines[0] == "READY=1"
                assert "WATCHDOG=1" not in heard.lines
                agent.stop()
                assert heard.heard()[-2:] == ["STOPPING=1", "STATUS=stopping"]
            manager.stop()
            assert told.heard()[-2:] == ["STOPPING=1", "STATUS=stopping"]
