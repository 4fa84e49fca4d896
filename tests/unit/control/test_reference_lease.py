"""The limits of a reference's lease."""

import math

import pytest

from cluster.control.reference_lease import MAX_LEASE_S, MIN_LEASE_S, checked_lease
from cluster.protocol.errors import InvalidReference
from cluster.store.records import LeaseLoss


@pytest.mark.parametrize("lease_s", [None, MIN_LEASE_S, 300.0, MAX_LEASE_S])
def test_lease_within_its_limits_is_taken(lease_s: float | None) -> None:
    assert checked_lease("db", LeaseLoss.WIPE, lease_s) == lease_s


@pytest.mark.parametrize("lease_s", [29.9, MAX_LEASE_S + 1, 0.0, -60.0, math.inf, math.nan])
def test_lease_outside_its_limits_is_refused(lease_s: float) -> None:
    with pytest.raises(InvalidReference, match="30 s to 24 h"):
        checked_lease("db", LeaseLoss.WIPE, lease_s)


def test_lease_of_a_file_that_is_kept_is_refused_with_the_way_out() -> None:
    assert checked_lease("db", LeaseLoss.KEEP, None) is None
    with pytest.raises(InvalidReference, match="add on-lease-loss=wipe, or leave the lease out"):
        checked_lease("db", LeaseLoss.KEEP, 60.0)
