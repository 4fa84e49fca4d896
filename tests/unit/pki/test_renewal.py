"""When to renew, and who may come back."""

from datetime import UTC, datetime, timedelta

import pytest

from cluster.pki.renewal import may_return, renew_at, return_deadline

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(("draw", "hours"), [(0.0, 12.0), (0.5, 15.6), (1.0, 19.2)])
def test_renewal_falls_between_half_and_four_fifths_of_the_life(draw: float, hours: float) -> None:
    assert renew_at(START, START + DAY, draw) == START + timedelta(hours=hours)


def test_grace_counts_from_expiry() -> None:
    assert may_return(START, [], START + 7 * DAY)
    assert not may_return(START, [], START + 7 * DAY + timedelta(seconds=1))


def test_grace_counts_from_the_end_of_the_outage_it_expired_in() -> None:
    """Three weeks off, then an unlock: the nodes come back by themselves."""
    outage = (START - DAY, START + 21 * DAY)
    assert return_deadline(START, [outage]) == START + 28 * DAY
    assert may_return(START, [outage], START + 22 * DAY)
    assert not may_return(START, [], START + 22 * DAY)


@pytest.mark.parametrize(
    "outage",
    [(START - 9 * DAY, START - DAY), (START + DAY, START + 30 * DAY)],
    ids=["before", "after"],
)
def test_an_outage_it_did_not_expire_in_does_not_count(
    outage: tuple[datetime, datetime],
) -> None:
    assert return_deadline(START, [outage]) == START + 7 * DAY


def test_grace_is_configurable() -> None:
    assert not may_return(START, [], START + DAY, grace=timedelta(hours=1))
