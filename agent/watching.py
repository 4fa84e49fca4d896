"""Lets an agent be watched: its metrics on loopback, where a listener is configured.

Owns the joining of numbers, text and listener. The library is loaded only here, on use: an agent
that nobody scrapes does without it.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from agent.config import loopback
from agent.counted import Counted, Standing
from agent.session import Session
from cluster.protocol.wire import ServiceAssignment

if TYPE_CHECKING:
    from agent.metrics_listener import MetricsListener


class Watching:
    """The metrics of one agent; without an address it does nothing."""

    def __init__(
        self, address: str | None, counted: Counted, standing: Callable[[], Standing]
    ) -> None:
        self._address = address
        self._counted = counted
        self._standing = standing
        self._listener: MetricsListener | None = None

    async def start(self) -> None:
        """Listen. Raises Unavailable where the address is taken."""
        if self._address is None:
            return
        from agent import metrics, metrics_listener  # noqa: PLC0415  # a megabyte, on use only

        self._listener = metrics_listener.MetricsListener(
            loopback(self._address),
            metrics.CONTENT_TYPE,
            lambda: metrics.render(self._counted, self._standing()),
        )
        await self._listener.start()

    async def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            await self._listener.close()


def standing_of(
    session: Session,
    mounted: Mapping[str, ServiceAssignment],
    counted: Counted,
    now_s: float,
    *,
    certificate_left_s: float,
    certificate_faults: int,
) -> Standing:
    """Return how an agent stands at `now_s` of CLOCK_BOOTTIME."""
    applied_at_s = counted.applied_at_s
    return Standing(
        in_session=session.is_synced,
        since_applied_s=None if applied_at_s is None else now_s - applied_at_s,
        services=len(mounted),
        files=sum(len(service.files) for service in mounted.values()),
        files_lapsed=session.files_lapsed,
        lease_left_s=session.lease_left_s(now_s),
        certificate_left_s=certificate_left_s,
        certificate_faults=certificate_faults,
    )
