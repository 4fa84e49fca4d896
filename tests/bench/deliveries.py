"""From the start of a rotation's request to the new bytes in the service's file, on one node."""

import http.client
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.bench import targets
from tests.bench.rows import Row
from tests.bench.stage import SECRET, VALUE_BYTES, Stage

PATIENCE_S: Final = 60.0
POLL_S: Final = 0.000_1
RESTS_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """One rotation, in milliseconds from the start of the request."""

    readable: float
    acknowledged: float
    """The rollout is done: the node's report that the file is written is in the records."""


class Operator:
    """A kept connection to one manager, as the admin."""

    def __init__(self, stage: Stage, endpoint: str) -> None:
        host, _, port = endpoint.rpartition(":")
        context = stage.operator.context()
        self._connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=60)
        self._connection.connect()
        self._used_at = time.monotonic()

    def ready(self) -> None:
        """Connect again if the connection rested so long that the manager may have ended it."""
        if time.monotonic() - self._used_at > RESTS_S:
            self._connection.close()
            self._connection.connect()

    def send(self, method: str, path: str, body: bytes = b"") -> None:
        """Send a request."""
        self._connection.request(method, path, body)

    def answer(self) -> dict[str, object]:
        """Return the answer to what was sent."""
        reply = self._connection.getresponse()
        content: dict[str, object] = json.loads(reply.read())
        assert reply.status < 300, content
        self._used_at = time.monotonic()
        return content

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def deliver(operator: Operator, read: Callable[[], bytes | None], secret: str = SECRET) -> Delivery:
    """Rotate a secret and wait for its file, then for its rollout's end."""
    value = os.urandom(VALUE_BYTES)
    operator.ready()
    started = time.perf_counter()
    operator.send("POST", f"/v1/secrets/{secret}/versions", value)
    while read() != value:
        if time.perf_counter() - started > PATIENCE_S:
            raise AssertionError("the rotated value did not arrive")
        time.sleep(POLL_S)
    readable = time.perf_counter() - started
    rollout = operator.answer()["rollout"]
    done = False
    while not done:
        operator.send("GET", f"/v1/rollouts/{rollout}?wait=5")
        done = bool(operator.answer()["done"])
    return Delivery(readable * 1_000, (time.perf_counter() - started) * 1_000)


def delivered(stage: Stage, count: int) -> list[Delivery]:
    """Rotate `count` times by way of every manager in turn: the agent's is one of them."""
    operators = [Operator(stage, endpoint) for endpoint in stage.endpoints]
    done = [deliver(operators[at % len(operators)], stage.in_file) for at in range(count)]
    for operator in operators:
        operator.close()
    return done


def deliveries(stage: Stage) -> list[Row]:
    """Measure rotations to the file, without any restart."""
    done = delivered(stage, stage.size.deliveries)
    readable = [one.readable for one in done]
    return [
        Row.of(targets.TO_FILE, "ms", readable),
        Row.of(targets.TO_FILE_P99, "ms", readable, share=0.99),
        Row.of("rotate to acknowledged, 1 node", "ms", [one.acknowledged for one in done]),
    ]
