"""A bad credential takes itself back while the manager that moves the rollout is killed at every
step."""

from typing import Any

import pytest

from tests.support.running import ManagerProcess, RunningCluster, running_cluster, wait_until

pytestmark = pytest.mark.slow

# A verdict takes so long that a killed manager is back before the next step is due.
CHECK = {"command": ["/bin/grep", "-q", "^good", "/run/secrets/credential"], "interval_s": 6.0}


def _duties(manager: ManagerProcess) -> int:
    """Return how often a manager took the duty up, as its log tells."""
    return manager.text().count("duty.taken")


def test_the_next_holder_of_the_duty_takes_the_next_step() -> None:
    with running_cluster(managers=3, agents=2, engine="etcd") as cluster:
        cluster.create_secret("credential", b"good 1")
        policy = {"canary": 1, "patience_s": 120.0, "on_failure": "rollback"}
        health = {**CHECK, "retries": 1}
        cluster.create_service(
            "app", 22_401, "credential", replicas=2, health=health, update=policy
        )
        counts = {one.name: _duties(one) for one in cluster.managers}
        (holder,) = [one for one in cluster.managers if counts[one.name]]
        rollout = cluster.ok("POST", "/v1/secrets/credential/versions", b"bad")["rollout"]
        seen = [cluster.ok("GET", f"/v1/rollouts/{rollout}")]
        killed = set()
        while not seen[-1]["done"]:
            killed.add(holder.name)
            holder.kill()
            holder = _next_holder(cluster, counts)
            for one in cluster.managers:
                if not one.running:
                    one.start()
            cluster.unlock_all()
            seen.append(_next(cluster, rollout, seen[-1]["step"]))
        assert seen[-1]["state"] == "rolled_back", seen[-1]
        assert len(killed) > 1
        assert [agent.read("app", "credential") for agent in cluster.agents] == [b"good 1"] * 2
        where = cluster.ok("GET", "/v1/secrets/credential/where")["receipts"]
        assert len({one["node"] for one in where if one["version"] == 2}) == 1


def _next(cluster: RunningCluster, rollout: str, step: int) -> dict[str, Any]:
    """Return the rollout after its next step."""

    def moved() -> dict[str, Any] | None:
        shown = cluster.ok("GET", f"/v1/rollouts/{rollout}")
        return shown if shown["step"] != step else None

    found = wait_until(moved, "the next holder takes the next step")
    assert found is not None
    return found


def _next_holder(cluster: RunningCluster, counts: dict[str, int]) -> ManagerProcess:
    """Return who took the duty up since `counts`, and bring these up to date."""

    def taken() -> ManagerProcess | None:
        for one in cluster.managers:
            if one.running and _duties(one) > counts[one.name]:
                return one
        return None

    holder = wait_until(taken, "another manager takes the duty up")
    assert holder is not None
    counts.update({one.name: _duties(one) for one in cluster.managers})
    return holder
