"""The lease of a reference: how long a file may outlive its managers' last word.

Owns the limits and what goes with what; the agent does the counting (`agent.lease`). Source: DESIGN
6.
"""

from typing import Final

from cluster.protocol.errors import InvalidReference
from cluster.store.records import LeaseLoss

MIN_LEASE_S: Final = 30.0
"""Ten seconds between requests, so that one that is lost does not end it."""
MAX_LEASE_S: Final = 24 * 3600.0


def checked_lease(source: str, on_loss: LeaseLoss, lease_s: float | None) -> float | None:
    """Return the lease of a reference to `source`.

    Raises InvalidReference outside the limits, and for one whose end would mean nothing.
    """
    if lease_s is None:
        return None
    if on_loss is not LeaseLoss.WIPE:
        raise InvalidReference(
            f"the reference to {source!r} has a lease and keeps its file when that is lost; "
            "add on-lease-loss=wipe, or leave the lease out"
        )
    # So written, a NaN is refused as well.
    if not MIN_LEASE_S <= lease_s <= MAX_LEASE_S:
        raise InvalidReference("a lease lasts 30 s to 24 h")
    return lease_s
