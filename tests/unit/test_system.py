"""The system's clock and entropy, and the fakes that stand in for them."""

from datetime import UTC, datetime, timedelta

import pytest

from cluster.system import Clock, Entropy, SystemClock, SystemEntropy
from tests.support.clock import ManualClock
from tests.support.entropy import SeededEntropy


@pytest.mark.parametrize("clock", [SystemClock(), ManualClock()])
def test_calendar_is_in_utc(clock: Clock) -> None:
    assert clock.now().tzinfo is UTC


@pytest.mark.parametrize("clock", [SystemClock(), ManualClock()])
def test_counts_never_go_back(clock: Clock) -> None:
    assert clock.monotonic_s() <= clock.monotonic_s()
    assert clock.boottime_s() <= clock.boottime_s()


@pytest.mark.parametrize("entropy", [SystemEntropy(), SeededEntropy(1)])
def test_draws_have_the_size_asked_for_and_differ(entropy: Entropy) -> None:
    draws = [entropy.token(32) for _ in range(4)]
    assert {len(draw) for draw in draws} == {32}
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("entropy", [SystemEntropy(), SeededEntropy(1)])
def test_jitter_stays_in_its_range(entropy: Entropy) -> None:
    assert all(2.0 <= entropy.uniform(2.0, 3.0) <= 3.0 for _ in range(100))


def test_manual_clock_moves_all_three_together() -> None:
    clock = ManualClock()
    before = (clock.now(), clock.monotonic_s(), clock.boottime_s())
    clock.advance(timedelta(minutes=1))
    assert clock.now() - before[0] == timedelta(minutes=1)
    assert clock.monotonic_s() - before[1] == 60
    assert clock.boottime_s() - before[2] == 60


def test_sleep_stops_the_monotonic_count_only() -> None:
    clock = ManualClock()
    monotonic_s, boottime_s = clock.monotonic_s(), clock.boottime_s()
    clock.advance(3600, asleep=True)
    assert clock.monotonic_s() == monotonic_s
    assert clock.boottime_s() == boottime_s + 3600


def test_only_the_calendar_goes_back() -> None:
    clock = ManualClock()
    monotonic_s = clock.monotonic_s()
    clock.jump(datetime(2020, 1, 1, tzinfo=UTC))
    assert clock.now().year == 2020
    assert clock.monotonic_s() == monotonic_s
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


def test_seed_replays_its_draws() -> None:
    first, again, other = SeededEntropy(5), SeededEntropy(5), SeededEntropy(6)
    assert first.token(16) == again.token(16) != other.token(16)
    assert first.uniform(0, 1) == again.uniform(0, 1)
