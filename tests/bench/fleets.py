"""Rotations to many agents: their sessions and file code are the real ones, in one process.

The fleet shares the machine, and this process its one interpreter: a row says how late the fleet's
own event loop was, because that much of a latency is the fleet's and not the managers'.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Final

from tests.bench.commands import fill
from tests.bench.deliveries import Operator
from tests.bench.memory import of_managers
from tests.bench.rows import MEDIAN, Row, percentile
from tests.bench.stage import SECRET, SERVICE, UID, VALUE_BYTES, Size, Stage
from tests.scale.fleet import SimulatedFleet
from tests.support.running import running_cluster, wait_until

SECRETS: Final = 1_000
PAUSE_S: Final = 0.2
"""Between rounds: what follows the last ack is no part of the next."""


def fleet(size: Size) -> Iterator[Row]:
    """Measure rotations, memory and a manager's loss with `size.agents` agents."""
    with _fleet_stage(size) as (own, agents):
        fill(own, SECRETS)
        agents.start(size.agents)
        _settled(agents, size.agents)
        yield from _memory(own, size.agents, "")
        yield from _rotations(own, agents, size.agents)
        yield from _memory(own, size.agents, ", after the rotations")
        yield _return(own, agents, size)


def _memory(own: Stage, count: int, when: str) -> Iterator[Row]:
    managers, engines = of_managers([manager.pid for manager in own.cluster.managers])
    many = f"{count} agents, {SECRETS} secrets{when}"
    yield Row.of(f"memory of a manager, {many}", "MB", managers, share=1.0)
    yield Row.of(f"memory of its etcd member, {many}", "MB", engines, share=1.0)


def by_agents(size: Size) -> Iterator[Row]:
    """Measure what a delivery costs the managers and engines as the fleet grows."""
    costs = []
    with _fleet_stage(size) as (own, agents):
        for count in size.growth_agents:
            agents.start(count)
            _settled(agents, count)
            cost = [_cost(own, agents, count) for _ in range(size.rounds)]
            costs.append(percentile(cost, MEDIAN))
            yield Row.of(f"cost per delivery, {count} agents", "CPU ms", cost)
    last = size.growth_agents[-1]
    # Over one agent the rotation's own cost weighs most; over many, what each delivery adds.
    for at, count in enumerate(size.growth_agents[:-1]):
        name = f"cost per delivery, {last} agents over {count}"
        yield Row.of(name, "ratio", [costs[-1] / costs[at]])


@contextlib.contextmanager
def _fleet_stage(size: Size) -> Iterator[tuple[Stage, SimulatedFleet]]:
    with (
        running_cluster(managers=3, engine="etcd") as cluster,
        SimulatedFleet.of(cluster) as agents,
    ):
        cluster.create_secret(SECRET, os.urandom(VALUE_BYTES))
        draft = {
            "name": SERVICE, "uid": UID, "gid": UID, "global": True,
            "references": [{"source": SECRET}],
        }  # fmt: skip
        cluster.ok("POST", "/v1/services", draft)
        yield Stage(cluster, size), agents


def _settled(agents: SimulatedFleet, count: int) -> None:
    wait_until(lambda: len(agents.holders(SECRET)) == count, "every agent has its file", 600.0)
    time.sleep(PAUSE_S)


def _rotate(operator: Operator) -> tuple[float, int]:
    """Return when a rotation was begun, and its version."""
    operator.ready()
    started = time.monotonic()
    operator.send("POST", f"/v1/secrets/{SECRET}/versions", os.urandom(VALUE_BYTES))
    version = operator.answer()["version"]
    assert isinstance(version, int)
    return started, version


def _rotations(own: Stage, agents: SimulatedFleet, count: int) -> list[Row]:
    operator = Operator(own, own.cluster.leader().api)
    written, acked = [], []
    agents.lags_s.clear()
    for _ in range(max(own.size.deliveries // 6, own.size.rounds)):
        started, version = _rotate(operator)
        found = agents.wait_applied(SECRET, version, since_s=started).values()
        assert len(found) == count
        written.append(max(one.written_s for one in found) * 1_000)
        acked.append(max(one.acked_s for one in found) * 1_000)
        time.sleep(PAUSE_S)
    operator.close()
    note = f"p99 of rounds; the fleet's loop was up to {max(agents.lags_s) * 1_000:.0f} ms late"
    return [
        Row.of(f"rotate to the last of {count} agents' files", "ms", written, 0.99, note),
        Row.of(f"rotate to the last of {count} agents' acks", "ms", acked, 0.99, note),
    ]


def _cost(own: Stage, agents: SimulatedFleet, count: int) -> float:
    """Return milliseconds of the managers' and engines' processor time a delivery, less rest."""
    rest = _used_by(own, lambda: time.sleep(1.0))
    operator = Operator(own, own.cluster.leader().api)
    turns = max(own.size.deliveries // count, 1)

    def rotate() -> None:
        for _ in range(turns):
            started, version = _rotate(operator)
            agents.wait_applied(SECRET, version, since_s=started)

    began = time.perf_counter()
    used = _used_by(own, rotate)
    took_s = time.perf_counter() - began
    operator.close()
    return (used - rest * took_s) / (turns * count) * 1_000


def _used_by(own: Stage, work: Callable[[], None]) -> float:
    before = own.used_s()
    work()
    return own.used_s() - before


def _return(own: Stage, agents: SimulatedFleet, size: Size) -> Row:
    """Kill a manager and cut every agent at the same moment; all must be served again."""
    taken = []
    for number in range(min(size.rounds, 5)):
        victim = own.cluster.managers[number % len(own.cluster.managers)]
        before = {name: agents.agent(name).links_opened for name in agents.running}
        started = time.perf_counter()
        victim.kill()
        agents.cut()
        wait_until(lambda seen=before: _all_back(agents, seen), "every agent is served")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        taken.append(time.perf_counter() - started)
        victim.start()
        victim.unlock(own.cluster.unlock_key)
        time.sleep(PAUSE_S)
    name = f"{size.agents} agents served again after a manager dies"
    return Row.of(name, "s", taken, note="every agent is cut at that moment")


def _all_back(agents: SimulatedFleet, before: dict[str, int]) -> bool:
    return all(
        (one := agents.agent(name)).links_opened > opened and one.is_synced
        for name, opened in before.items()
    )
