"""From kill -9 of the leading manager to the first write that the others acknowledge."""

import time
from typing import Final

from cluster.protocol.errors import ClusterError
from tests.bench import targets
from tests.bench.rows import Row
from tests.bench.stage import Stage
from tests.support.running import ManagerProcess, RunningCluster

PATIENCE_S: Final = 60.0


def elections(stage: Stage) -> list[Row]:
    """Measure losses of the leader; the service's file must stay as it is through all of them."""
    before, cluster = stage.in_file(), stage.cluster
    taken = []
    for number in range(stage.size.elections):
        taken.append(lose_leader(cluster, number))
        assert stage.in_file() == before, "an agent lost its secret"
    return [
        Row.of(targets.FIRST_WRITE, "s", taken),
        Row.of(targets.FIRST_WRITE_MAX, "s", taken, share=1.0, note="no agent lost a secret"),
    ]


def lose_leader(cluster: RunningCluster, number: int) -> float:
    """Return seconds; the killed manager serves again afterwards."""
    leader = cluster.leader()
    survivors = [manager for manager in cluster.managers if manager is not leader]
    started = time.perf_counter()
    leader.kill()
    while not _written(cluster, f"after-{started}-{number}", survivors[number % 2]):
        if time.perf_counter() - started > PATIENCE_S:
            raise AssertionError("nothing could be written after the leader's end")
        time.sleep(0.005)
    taken = time.perf_counter() - started
    leader.start()
    leader.unlock(cluster.unlock_key)
    return taken


def _written(cluster: RunningCluster, name: str, manager: ManagerProcess) -> bool:
    """Create a secret at one manager; it waits inside while the engine elects."""
    try:
        answer = cluster.call("POST", f"/v1/secrets?name={name}", b"value", managers=[manager])
    except (ClusterError, OSError):
        return False
    return answer.status == 201 or answer.body.get("code") == "already_exists"
