"""`request.limited`: who is over a limit is told, and a flood cannot fill the log by it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import structlog

from cluster.api.limited_log import TOLD_EVERY_S, TOLD_TOGETHER, LimitedLog
from cluster.api.refused import Refused
from cluster.protocol.identity import Kind
from tests.support.clock import ManualClock
from tests.unit.api.lab import caller_of

pytestmark = pytest.mark.threat("T-16")


class Told:
    """The log of one listener, and what it said."""

    def __init__(self, events: Sequence[Mapping[str, Any]]) -> None:
        self.clock = ManualClock()
        self.log = LimitedLog(self.clock, "api")
        self.events = events

    def note(self, name: str, why: Refused = Refused.RATE, address: str = "10.0.0.1") -> None:
        caller = caller_of(Kind.OPERATOR, name) if name else None
        self.log.note({"state": {"strongroom.caller": caller}, "client": (address, 1)}, why)

    @property
    def names(self) -> list[str]:
        return [event["caller"].rpartition("/")[2] for event in self.events]


@pytest.fixture
def told() -> Iterator[Told]:
    with structlog.testing.capture_logs() as events:
        yield Told(events)


def test_caller_is_named_with_address_and_reason(told: Told) -> None:
    told.note("ada", Refused.SESSIONS, "10.0.0.9")
    assert told.events == [
        {
            "event": "request.limited", "log_level": "warning", "listener": "api",
            "caller": "spiffe://lab.example/operator/ada", "address": "10.0.0.9",
            "reason": "sessions",
        }
    ]  # fmt: skip


def test_each_caller_is_told_of_once_a_minute_whatever_the_reasons(told: Told) -> None:
    for _ in range(100):
        told.note("ada")
        told.note("bob", Refused.SESSIONS)
    assert told.names == ["ada", "bob"]
    told.clock.advance(TOLD_EVERY_S - 0.1)
    told.note("ada", Refused.CONCURRENCY)
    assert told.names == ["ada", "bob"]
    told.clock.advance(0.1)
    told.note("ada", Refused.CONCURRENCY)
    told.note("ada")
    assert told.names == ["ada", "bob", "ada"]


def test_a_minute_counts_from_what_was_told_and_not_from_the_last_request(told: Told) -> None:
    """Who never stops is named again each minute."""
    for _ in range(180):
        told.note("ada")
        told.clock.advance(1.0)
    assert told.names == ["ada"] * 3


def test_strangers_are_not_told_of(told: Told) -> None:
    told.note("")
    assert told.events == []


def test_many_callers_cost_a_bounded_table_and_bounded_lines(told: Told) -> None:
    """Full, it is silent: whom it named is not forgotten early, to be named again and again."""
    for _ in range(2):
        for number in range(TOLD_TOGETHER + 100):
            told.note(f"o{number}")
    assert told.names == [f"o{number}" for number in range(TOLD_TOGETHER)]
    assert len(told.log._told_at_s) == TOLD_TOGETHER
    told.clock.advance(TOLD_EVERY_S)
    told.note("late")
    assert told.names[-1] == "late"
    assert len(told.log._told_at_s) == 1


def test_only_what_is_a_minute_old_is_dropped(told: Told) -> None:
    told.note("ada")
    told.clock.advance(TOLD_EVERY_S / 2)
    told.note("bob")
    told.clock.advance(TOLD_EVERY_S / 2)
    told.note("ada")
    told.note("bob")
    assert told.names == ["ada", "bob", "ada"]
