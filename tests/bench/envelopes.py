"""The cost of the envelope that values travel in: per value, by suite and by values per message."""

import os
import time
from collections.abc import Callable
from typing import Final

from cluster.pki.node_envelope import EnvelopeSuite, NodeKeys, Recipient, staged
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.wire import Values, VersionKey
from cluster.system import SystemEntropy
from tests.bench.rows import Row

NODE, SESSION = "node", "session"
VALUE_BYTES: Final = 1_024
BATCHES: Final = {1: 200, 100: 20}
"""Values per message, and messages per round."""
ROUNDS: Final = 7


def envelopes() -> list[Row]:
    """Measure sealing at the manager and opening at the node, in one process."""
    return [row for suite in EnvelopeSuite for count in BATCHES for row in _rows(suite, count)]


def _rows(suite: EnvelopeSuite, count: int) -> list[Row]:
    keys, entropy = NodeKeys.generate(NODE, (suite,)), SystemEntropy()
    recipient = Recipient.choose(keys.public_keys(), NODE, SESSION)
    values = [
        (VersionKey(f"{number:026}", 1), SecretBytes(os.urandom(VALUE_BYTES)))
        for number in range(count)
    ]
    message = recipient.seal(values, entropy)
    what = f"a value of 1 KiB, {count} a message ({suite})"
    return [
        Row.of(f"seal {what}", "µs", _measured(lambda: recipient.seal(values, entropy), count)),
        Row.of(f"open {what}", "µs", _measured(lambda: _open(keys, suite, message), count)),
    ]


def _open(keys: NodeKeys, suite: EnvelopeSuite, message: Values) -> None:
    with keys.opening() as open_value:
        for value in staged(message, suite, SESSION).values():
            open_value(value).wipe()


def _measured(work: Callable[[], object], count: int) -> list[float]:
    """Return microseconds per value, a figure for each round."""
    found = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(BATCHES[count]):
            work()
        found.append((time.perf_counter() - started) / BATCHES[count] / count * 1e6)
    return found
