"""A record's own time: never before the newest moment in it, however the calendar came back.

Waits are counted from moments on record, and those are the calendar's: any manager can go on with
them. A calendar that was ahead when one was written and came back since would hold the wait up for
as long as it had been ahead. Here such a record goes on from its newest moment at the pace of the
clock that never jumps: so its wait is never longer than it should be by more than the time that
another holder has counted, and never shorter. Knows no record; must not write.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from cluster.system import Clock


@dataclass(slots=True)
class OwnTimes:
    """The times of records, as one holder of a duty counts them."""

    clock: Clock
    _ahead: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Record -> its newest moment, and when on the monotonic clock that was first seen."""

    def now_s(self, record_id: str, newest_s: float | None) -> float:
        """Return the present moment for a record; `newest_s`: its newest moment, unix seconds."""
        calendar_s, monotonic_s = self.clock.now().timestamp(), self.clock.monotonic_s()
        if newest_s is None or newest_s <= calendar_s:
            self._ahead.pop(record_id, None)
            return calendar_s
        seen, since_s = self._ahead.get(record_id, (newest_s, monotonic_s))
        if seen != newest_s:
            since_s = monotonic_s
        self._ahead[record_id] = newest_s, since_s
        return newest_s + monotonic_s - since_s

    def keep_only(self, record_ids: Collection[str]) -> None:
        """Forget all others."""
        self._ahead = {one: at for one, at in self._ahead.items() if one in record_ids}
