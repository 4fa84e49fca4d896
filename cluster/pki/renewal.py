"""When a certificate is renewed, and whether an expired node may come back (DESIGN 5). Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta

EARLIEST, LATEST = 0.5, 0.8
"""Shares of a certificate's life: late enough to be cheap, early enough to survive an outage."""

RETURN_GRACE = timedelta(days=7)


def renew_at(not_before: datetime, not_after: datetime, draw: float) -> datetime:
    """Return when to renew: at 50 to 80 % of the life, placed by `draw` in [0, 1].

    The draw spreads a fleet that joined together, so that it does not renew together.
    """
    share = EARLIEST + (LATEST - EARLIEST) * min(max(draw, 0.0), 1.0)
    return not_before + (not_after - not_before) * share


def return_deadline(
    expired_at: datetime,
    outages: Iterable[tuple[datetime, datetime]],
    grace: timedelta = RETURN_GRACE,
) -> datetime:
    """Return until when a node whose certificate ended may come back by its old key.

    `outages` are (start, end) of the times the cluster could renew nothing, as recorded at unlock.
    A node that expired inside one could not help it, so its grace counts from that outage's end.
    """
    ends = [end for start, end in outages if start <= expired_at <= end]
    return max([expired_at, *ends]) + grace


def may_return(
    expired_at: datetime,
    outage_windows: Iterable[tuple[datetime, datetime]],
    now: datetime,
    grace: timedelta = RETURN_GRACE,
) -> bool:
    """Return whether the grace of an expired certificate still runs at `now`.

    It says nothing of the rest of the rule: the node is active and the serial the newest or the one
    before.
    """
    return now <= return_deadline(expired_at, outage_windows, grace)
