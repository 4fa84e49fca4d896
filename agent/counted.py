"""What the agent counts while it runs, and how it stands: plain numbers, for whoever asks.

Owns no clock and no text: `agent.metrics` turns this into Prometheus' text, and is loaded only
where somebody listens. No name and no value is in it.
"""

from dataclasses import dataclass, field
from typing import Final

APPLY_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
"""The upper bounds of the buckets of an Apply's time."""


@dataclass(slots=True)
class Counted:
    """Since the agent's start. Times are CLOCK_BOOTTIME seconds."""

    connected: int = 0
    """Links that opened, a renewed certificate's second one included."""
    lost: int = 0
    """Sessions that were lost or could not be opened."""
    lapsed: int = 0
    """Times that files were wiped because their lease ran out."""
    applied_at_s: float | None = None
    apply_total_s: float = 0.0
    apply_counts: list[int] = field(default_factory=lambda: [0] * (len(APPLY_S) + 1))
    """By bucket; the last is for what took longer."""

    def applied(self, took_s: float, now_s: float) -> None:
        """Count an Apply that was carried out."""
        took_s = max(0.0, took_s)
        bucket = next((i for i, limit in enumerate(APPLY_S) if took_s <= limit), len(APPLY_S))
        self.apply_counts[bucket] += 1
        self.apply_total_s += took_s
        self.applied_at_s = now_s


@dataclass(frozen=True, slots=True)
class Standing:
    """How the agent stands at one moment; None: there is no such thing now."""

    in_session: bool
    since_applied_s: float | None
    services: int
    files: int
    """That are in place."""
    files_lapsed: int
    """That are not, because their lease ran out."""
    lease_left_s: float | None
    """Of the node's own; below 0 it has run out."""
    certificate_left_s: float
    certificate_faults: int
    """Services whose own certificate is not what it should be."""
