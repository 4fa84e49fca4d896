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
    """Record -> the moment it was told last, and when on the monotonic clock that was."""

    def now_s(self, record_id: str, newest_s: float | None) -> float:
        """Return the present moment for a record; `newest_s`: its newest moment, unix seconds."""
        calendar_s, monotonic_s = self.clock.now().timestamp(), self.clock.monotonic_s()
        if newest_s is None or newest_s <= calendar_s:
            self._ahead.pop(record_id, None)
            return calendar_s
        told_s, at_s = self._ahead.get(record_id, (newest_s, monotonic_s))
        # Never back, whatever was written or withdrawn since: a target that comes and goes, or a
        # further one at each look, would begin the wait anew each time.
        own_s = max(newest_s, told_s + monotonic_s - at_s)
        self._ahead[record_id] = own_s, monotonic_s
        return own_s

    def keep_only(self, record_ids: Collection[str]) -> None:
        """Forget all others."""
        self._ahead = {one: at for one, at in self._ahead.items() if one in record_ids}
