"""`ManualClock`: time that moves only when a test says so."""

from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """A `cluster.system.Clock` whose three counts a test moves together or apart."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start
        self._monotonic_s = 1_000.0
        self._boottime_s = 5_000.0

    def now(self) -> datetime:
        """Return the calendar time in UTC."""
        return self._now

    def monotonic_s(self) -> float:
        """Return the count that stops while the machine sleeps."""
        return self._monotonic_s

    def boottime_s(self) -> float:
        """Return the count that includes sleep."""
        return self._boottime_s

    def advance(self, by: float | timedelta, *, asleep: bool = False) -> None:
        """Let `by` (seconds, or a timedelta) pass; `asleep` leaves the monotonic count standing."""
        step = by if isinstance(by, timedelta) else timedelta(seconds=by)
        if step < timedelta(0):
            raise ValueError("time does not go back; use jump() to set the calendar")
        self._now += step
        self._boottime_s += step.total_seconds()
        if not asleep:
            self._monotonic_s += step.total_seconds()

    def jump(self, to: datetime) -> None:
        """Set the calendar alone, as an administrator or NTP does; it may go back."""
        self._now = to
