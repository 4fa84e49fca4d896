"""Takes samples of manager and simulator while a run goes on, in a thread of its own.

How late the manager's event loop is shows from outside as how long it takes to answer `/healthz`,
which does no work, over a connection that is kept.
"""

import http.client
import os
import ssl
import threading
import time
from collections.abc import Callable
from typing import Final

from cluster.pki.tls import unverified_context
from tests.scale.findings import Sample
from tests.scale.fleet import SimulatedFleet
from tests.scale.processes import anonymous_kb, cpu_s, descriptors

_LOOK_S: Final = 0.5
_TIMEOUT_S: Final = 60.0


class Sampler:
    """Samples until it is stopped; `samples` grows meanwhile."""

    def __init__(
        self, manager_pid: int, join_address: str, fleet: SimulatedFleet, every_s: float
    ) -> None:
        self.samples: list[Sample] = []
        self._pid = manager_pid
        self._address = join_address
        self._fleet = fleet
        self._every_s = every_s
        self._started_s = time.monotonic()
        self._done = threading.Event()
        self._answers_s: list[float] = []
        self._threads = [
            threading.Thread(target=self._sample, name="sampler", daemon=True),
            threading.Thread(target=self._probe, name="probe", daemon=True),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, with a last sample."""
        self._done.set()
        for thread in self._threads:
            thread.join(_TIMEOUT_S)
        self._take()

    def _sample(self) -> None:
        while not self._done.wait(self._every_s):
            self._take()

    def _take(self) -> None:
        lags, self._fleet.lags_s = self._fleet.lags_s, []
        answers, self._answers_s = self._answers_s, []
        own = os.getpid()
        self.samples.append(
            Sample(
                at_s=time.monotonic() - self._started_s,
                manager_kb=anonymous_kb(self._pid),
                simulator_kb=anonymous_kb(own),
                manager_fds=descriptors(self._pid),
                simulator_fds=descriptors(own),
                manager_cpu_s=cpu_s(self._pid),
                simulator_cpu_s=cpu_s(own),
                simulator_lag_s=max(lags, default=0.0),
                manager_answer_s=max(answers, default=0.0),
                load=os.getloadavg()[0],
            )
        )

    def _probe(self) -> None:
        ask: Callable[[], None] | None = None
        while not self._done.wait(_LOOK_S):
            started_s = time.monotonic()
            try:
                ask = ask or _asking(self._address, unverified_context())
                ask()
            except (OSError, http.client.HTTPException):
                ask = None
                continue
            self._answers_s.append(time.monotonic() - started_s)


def _asking(address: str, context: ssl.SSLContext) -> Callable[[], None]:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=_TIMEOUT_S)

    def ask() -> None:
        connection.request("GET", "/healthz")
        connection.getresponse().read()

    ask()
    return ask
