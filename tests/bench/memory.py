"""What the processes hold in memory that is theirs alone (RssAnon)."""

from collections.abc import Sequence

from tests.bench import targets
from tests.bench.rows import Row
from tests.bench.stage import Stage, status_kib
from tests.support.processes import children_of


def memory(stage: Stage) -> list[Row]:
    """Measure an agent with one service, and each manager and engine as they are now."""
    managers, engines = of_managers([manager.pid for manager in stage.cluster.managers])
    secrets = stage.cluster.ok("GET", "/v1/status")["secrets"]
    return [
        Row.of(targets.AGENT_MEMORY, "MB", [own_mb(stage.agent.pid)]),
        Row.of("memory of a manager, 1 agent", "MB", managers, note=f"{secrets} secrets"),
        Row.of("memory of its etcd member, 1 agent", "MB", engines, note=f"{secrets} secrets"),
    ]


def of_managers(pids: Sequence[int]) -> tuple[list[float], list[float]]:
    """Return megabytes of managers, and of the engine members they started."""
    engines = [child for pid in pids for child in children_of(pid)]
    return [own_mb(pid) for pid in pids], [own_mb(pid) for pid in engines]


def own_mb(pid: int) -> float:
    """Return the megabytes that are a process's alone."""
    return status_kib(pid, "RssAnon") * 1_024 / 1e6
