"""What a delivery costs as the cluster grows: the managers' and the agent's processor time.

Processor time and not time on the clock: it depends less on what else the machine does. One cluster
a dimension only ever grows; beside the last size, a second one that stayed as it was takes turns
with it, because a machine may be half as fast ten minutes later.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence

from tests.bench.commands import fill
from tests.bench.deliveries import Delivery, delivered
from tests.bench.load import Asked, generating
from tests.bench.rows import MEDIAN, Row, percentile
from tests.bench.stage import PLACED_NOWHERE, UID, Size, Stage, processor_s, stage
from tests.support.running import wait_until

FIRST_DELIVERIES = 10
"""Left out: what is imported and cached on first use is no cost of a size."""


def by_secrets(size: Size) -> Iterator[Row]:
    """Measure with more and more secrets that nobody uses, and a manager's start with the last."""
    with stage(size) as small, stage(size) as grown:
        fill(small, size.growth_secrets[0])
        yield from _growth(small, grown, "secrets", size.growth_secrets, fill)
        yield _start(grown, size.growth_secrets[-1])


def by_services(size: Size) -> Iterator[Row]:
    """Measure with more and more services, which run on other nodes."""
    with stage(size) as small, stage(size) as grown:
        yield from _growth(small, grown, "services", size.growth_services, _services)


def _growth(
    small: Stage, grown: Stage, what: str, counts: Sequence[int], grow: Callable[[Stage, int], None]
) -> Iterator[Row]:
    for count in counts:
        grow(grown, count)
        delivered(grown, FIRST_DELIVERIES)
        yield _row([_sample(grown) for _ in range(grown.size.rounds)], f"{count} {what}")
    delivered(small, FIRST_DELIVERIES)
    turns = [(_sample(small), _sample(grown)) for _ in range(grown.size.rounds)]
    first, last = (_median([cost for cost, _ in of]) for of in zip(*turns, strict=True))
    yield Row.of(
        f"cost per delivery, {counts[-1]} {what} over {counts[0]}",
        "ratio",
        [after / before for (before, _), (after, _) in turns],
        note=f"taking turns: {last:.1f} over {first:.1f} CPU ms",
    )


def _services(stage: Stage, count: int) -> None:
    """Create services until there are so many."""
    there: int = stage.cluster.ok("GET", "/v1/status")["services"]
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


def _sample(stage: Stage) -> tuple[float, float]:
    """Return milliseconds of processor time that a delivery takes of all processes together, and
    of the clock until it is in the file (p50)."""
    idle = _used_while(stage, 1.0)
    count = max(stage.size.deliveries // stage.size.rounds, 10)
    before, started = _used(stage), time.perf_counter()
    found: list[Delivery] = delivered(stage, count)
    took_s = time.perf_counter() - started
    cost = (_used(stage) - before - idle * took_s) / count * 1_000
    return cost, _median([one.readable for one in found])


def _row(samples: Sequence[tuple[float, float]], size: str) -> Row:
    note = f"to the file in {samples[-1][1]:.1f} ms (p50 of the last round)"
    costs = [cost for cost, _ in samples]
    return Row.of(f"cost per delivery, {size}", "CPU ms", costs, note=note)


def _median(samples: Sequence[float]) -> float:
    return percentile(samples, MEDIAN)


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
