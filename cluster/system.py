"""Clock and entropy: the only reader of time and randomness in either package.

Everything else takes a `Clock` and an `Entropy`, so that tests can move time and replay a seed.
"""

import os
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time, three ways: by the calendar, by a steady count, and by a count that includes
    sleep."""

    def now(self) -> datetime:
        """Return the calendar time, aware, in UTC. It may jump."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds that never go back; stops while the machine sleeps."""
        ...

    def boottime_s(self) -> float:
        """Return seconds since boot, sleep included (CLOCK_BOOTTIME): what leases are counted
        on."""
        ...


class Entropy(Protocol):
    """Draws randomness."""

    def token(self, size: int) -> bytes:
        """Return `size` unpredictable bytes, fit for keys, nonces, salts and tokens."""
        ...

    def uniform(self, low: float, high: float) -> float:
        """Return a number in [low, high], for jitter only."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Return the calendar time in UTC."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Return CLOCK_MONOTONIC."""
        return time.monotonic()

    def boottime_s(self) -> float:
        """Return CLOCK_BOOTTIME."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class SystemEntropy:
    """The kernel's random source."""

    def token(self, size: int) -> bytes:
        """Return `size` bytes of getrandom(2)."""
        return os.urandom(size)

    def uniform(self, low: float, high: float) -> float:
        """Return a uniform draw in [low, high]."""
        # Not at the top: commands draw ids alone.
        import random  # noqa: PLC0415

        return random.SystemRandom().uniform(low, high)
