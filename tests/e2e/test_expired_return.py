"""Three weeks switched off: certificates have expired, and agents come back by themselves."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.support.running import AgentProcess, Process, RunningCluster, running_cluster, wait_until

FAKETIME: Final = (
    Path(__file__).parents[2]
    / ".tools/faketime/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """Three managers on etcd and three agents."""
    if not FAKETIME.exists():
        pytest.skip("libfaketime is not in .tools; run `make tools`")
    with running_cluster(managers=3, agents=3, engine="etcd") as running:
        yield running


def _time_passes(process: Process, offset: str) -> None:
    """Let a process see another date from its next start on; etcd, its child, does not."""
    process.env |= {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME": offset,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def _reads(agent: AgentProcess, value: bytes) -> bool:
    return agent.read("lasting", "lasting") == value


@pytest.mark.slow
def test_agents_come_back_after_three_weeks_off(cluster: RunningCluster) -> None:
    """One unlock per manager is all: expired nodes prove their old keys and mount again; the
    removed one does not come back."""
    cluster.create_secret("lasting", b"one")
    cluster.create_service("lasting", 26_001, "lasting", **{"global": True})
    removed = cluster.agents[2]
    # A node whose first session opens late is no part of the service's rollout, and gets it too.
    for agent in cluster.agents:
        wait_until(partial(_reads, agent, b"one"), f"{agent.name} has its file")
    removed.lose_power()
    cluster.ok("DELETE", f"/v1/nodes/{removed.name}")
    for agent in cluster.agents:
        agent.lose_power()
    for manager in cluster.managers:
        manager.kill()

    for process in (*cluster.agents, *cluster.managers):
        _time_passes(process, "+21d")
    for process in (*cluster.agents, *cluster.managers):
        process.start()
    assert {manager.state() for manager in cluster.managers} == {"locked"}
    cluster.unlock_all()

    back = cluster.agents[:2]
    for agent in back:
        wait_until(partial(_reads, agent, b"one"), f"{agent.name} mounts")
        assert "identity.expired" in agent.text()
        assert "identity.returned" in agent.text()
        expires = datetime.fromisoformat(cluster.node(agent.name)["certificate_expires_at"])
        assert expires > datetime.now(UTC) + timedelta(days=20), "the managers saw three weeks"
    cluster.rotate("lasting", b"two")
    assert [agent.read("lasting", "lasting") for agent in back] == [b"two", b"two"]
    wait_until(lambda: "identity.expired" in removed.text(), "the removed node tried")
    assert "identity.returned" not in removed.text()
    assert removed.read("lasting", "lasting") is None
