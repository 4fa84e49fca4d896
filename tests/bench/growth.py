"""What a delivery costs as the cluster grows: the managers' and the agent's processor time.

Processor time and not time on the clock: it depends less on what else the machine does. One stage a
dimension, which only ever grows.
"""

import json
import time
from collections.abc import Iterator

from tests.bench.commands import fill
from tests.bench.deliveries import Delivery, delivered
from tests.bench.load import Asked, generating
from tests.bench.rows import Row, percentile
from tests.bench.stage import PLACED_NOWHERE, UID, Stage, processor_s
from tests.support.running import wait_until

FIRST_DELIVERIES = 10
"""Left out: what is imported and cached on first use is no cost of a size."""


def by_secrets(stage: Stage) -> Iterator[Row]:
    """Measure with more and more secrets that nobody uses, and a manager's start with the last."""
    costs = []
    for count in stage.size.growth_secrets:
        fill(stage, count)
        cost, row = _cost(stage, f"{count} secrets")
        costs.append(cost)
        yield row
    last, first = stage.size.growth_secrets[-1], stage.size.growth_secrets[0]
    name = f"cost per delivery, {last} secrets over {first}"
    yield Row.of(name, "ratio", [costs[-1] / costs[0]])
    yield _start(stage, last)


def by_services(stage: Stage) -> Iterator[Row]:
    """Measure with more and more services, which run on other nodes."""
    costs, there = [], 1
    for count in stage.size.growth_services:
        _services(stage, there, count)
        there = count
        cost, row = _cost(stage, f"{count} services")
        costs.append(cost)
        yield row
    last, first = stage.size.growth_services[-1], stage.size.growth_services[0]
    name = f"cost per delivery, {last} services over {first}"
    yield Row.of(name, "ratio", [costs[-1] / costs[0]])


def _services(stage: Stage, there: int, count: int) -> None:
    if count <= there:
        return
    body = {
        "name": f"other-{there}-@number@",
        "uid": UID,
        "gid": UID,
        "constraints": [PLACED_NOWHERE],
    }
    asked = Asked("POST", "/v1/services", json.dumps(body).encode())
    with generating(stage.target(), asked, 16) as generator:
        generator.round(count - there)


def _cost(stage: Stage, size: str) -> tuple[float, Row]:
    """Return milliseconds of processor time a delivery takes of all processes together."""
    delivered(stage, FIRST_DELIVERIES)
    samples = []
    for _ in range(stage.size.rounds):
        idle = _used_while(stage, 1.0)
        count = max(stage.size.deliveries // stage.size.rounds, 10)
        before, started = _used(stage), time.perf_counter()
        found: list[Delivery] = delivered(stage, count)
        took_s = time.perf_counter() - started
        samples.append((_used(stage) - before - idle * took_s) / count * 1_000)
    p50 = percentile([one.readable for one in found], 0.5)
    note = f"to the file in {p50:.1f} ms (p50 of the last round)"
    return percentile(samples, 0.5), Row.of(
        f"cost per delivery, {size}", "CPU ms", samples, note=note
    )


def _used(stage: Stage) -> float:
    return stage.used_s() + processor_s(stage.agent.pid)


def _used_while(stage: Stage, seconds: float) -> float:
    """Return what the processes take a second without any delivery."""
    before = _used(stage)
    time.sleep(seconds)
    return (_used(stage) - before) / seconds


def _start(stage: Stage, secrets: int) -> Row:
    """Measure from the start of a manager's process to its serving, unlocking included."""
    leader = stage.cluster.leader()
    manager = next(one for one in stage.cluster.managers if one is not leader)
    taken = []
    for _ in range(min(stage.size.rounds, 5)):
        manager.stop()
        started = time.perf_counter()
        manager.start()
        manager.unlock(stage.cluster.unlock_key)
        wait_until(lambda: manager.state() == "serving", "the manager serves")
        taken.append(time.perf_counter() - started)
    return Row.of(f"start of a manager, {secrets} secrets", "s", taken)
