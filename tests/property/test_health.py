"""Health checks in any order of changes, answers and links: no verdict without its evidence."""

from collections import Counter

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.health import MIN_INTERVAL_S, Basis, Finding, HealthWatch
from cluster.protocol.wire import HealthCheck, ServiceAssignment
from tests.simulation.naive_manager import service

NAMES = ["red", "blue"]
RETRIES = 2
CHECK = HealthCheck("exec", ("/bin/check",), interval_s=1.0, retries=RETRIES)

names = st.sampled_from(NAMES)


def checked(name: str, version: int) -> ServiceAssignment:
    return msgspec.structs.replace(service(name, ("a", version)), health=CHECK)


class Node(RuleBasedStateMachine):
    """A node beside what a reader of its whole history would conclude."""

    def __init__(self) -> None:
        super().__init__()
        self.watch = HealthWatch()
        self.now_s = 0.0
        self.link = 1
        self.services: dict[str, ServiceAssignment] = {}
        self.changed_at: dict[str, float] = {}
        self.answers: dict[str, list[bool]] = {}
        """Of each service since it changed last."""
        self.in_flight: list[tuple[Basis, int]] = []
        """With the service's number of changes when it began."""
        self.changes: Counter[str] = Counter()
        self.told: dict[str, tuple[int, bool]] = {}

    @rule(name=names, version=st.integers(1, 2))
    def place(self, name: str, version: int) -> None:
        if self.services.get(name) != checked(name, version):
            self._changed(name)
        self.services[name] = checked(name, version)
        self._follow()

    @rule(name=names)
    def remove(self, name: str) -> None:
        if self.services.pop(name, None) is not None:
            self._changed(name)
        self._follow()

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        for basis in self.watch.start_due(self.now_s):
            name = basis.name
            assert self.now_s - self.changed_at[name] >= MIN_INTERVAL_S
            assert basis.mounted[0].version == self.services[name].files[0].version
            self.in_flight.append((basis, self.changes[name]))

    @rule(place=st.integers(0, 1), healthy=st.sampled_from([True, False, None]))
    def answer(self, place: int, healthy: bool | None) -> None:
        if place < len(self.in_flight):
            basis, change = self.in_flight.pop(place)
            finding = None if healthy is None else Finding(healthy, "" if healthy else "no")
            self.watch.finish(basis, finding, self.now_s)
            if healthy is not None and change == self.changes[basis.name]:
                self.answers.setdefault(basis.name, []).append(healthy)

    @rule(healthy=st.booleans())
    def ask_all(self, healthy: bool) -> None:
        self.wait(30.0)
        while self.in_flight:
            self.answer(0, healthy)

    @rule()
    def reconnect(self) -> None:
        self.link += 1

    @rule()
    def report(self) -> None:
        for told in self.watch.reports(self.link):
            name = told.service_id.removeprefix("id-")
            assert told.mounted[0].version == self.services[name].files[0].version
            assert self.told.get(name) != (self.link, told.healthy), "told twice"
            self.told[name] = (self.link, told.healthy)
        for name in self.services:
            verdict = _concluded(self.answers.get(name, []))
            assert verdict is None or self.told.get(name) == (self.link, verdict)
            assert verdict is not None or name not in self.told

    @invariant()
    def one_of_each_at_once(self) -> None:
        busy = Counter(basis.name for basis, _ in self.in_flight)
        assert set(busy.values()) <= {1}

    def _changed(self, name: str) -> None:
        self.changes[name] += 1
        self.changed_at[name] = self.now_s
        self.answers.pop(name, None)
        self.told.pop(name, None)

    def _follow(self) -> None:
        given_up = self.watch.follow(self.services.values(), self.now_s)
        assert set(given_up) <= {basis.service_id for basis, _ in self.in_flight}


def _concluded(answers: list[bool]) -> bool | None:
    """Read a service's answers from the first to the last."""
    verdict: bool | None = None
    for count in range(1, len(answers) + 1):
        if answers[count - 1]:
            verdict = True
        elif count >= RETRIES and not any(answers[count - RETRIES : count]):
            verdict = False
    return verdict


TestNode = Node.TestCase
