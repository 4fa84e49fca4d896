"""How long the agent may still keep what must not outlive its managers' word (pure).

A file that is wiped on the loss of the lease may be there until

    the sending of the newest request that was granted + the file's lease

where a file without a lease of its own has the node's, which comes with each grant. Counting from
the sending, on CLOCK_BOOTTIME, means that neither a slow network nor a suspended machine lengthens
it, and the calendar's clock has no say. Must not read a clock. Source: DESIGN 6.
"""

from dataclasses import dataclass
from typing import Final

from cluster.protocol.wire import FileSpec

_REQUESTS_PER_LEASE: Final = 3


@dataclass(frozen=True, slots=True)
class Grant:
    """A manager's word: `lease_s` seconds from the moment the request was sent."""

    sent_s: float
    lease_s: float


class Lease:
    """Counts one agent's lease over all its links. Times are CLOCK_BOOTTIME seconds."""

    def __init__(self, granted: Grant | None) -> None:
        self._granted = granted
        self._asked: dict[int, tuple[int, float]] = {}
        self._number = 0
        self._newest_s: dict[int, float] = {}

    def covers(self, file: FileSpec, now_s: float) -> bool:
        """Return whether a file may be there at `now_s`."""
        if not file.wipe_on_lease_loss:
            return True
        if self._granted is None:
            return False
        lease_s = self._granted.lease_s if file.lease_s is None else file.lease_s
        return now_s < self._granted.sent_s + lease_s

    def left_s(self, now_s: float) -> float | None:
        """Return how long the node's own lease still runs, below 0 once it ran out; None: none was
        granted.
        """
        if self._granted is None:
            return None
        return self._granted.sent_s + self._granted.lease_s - now_s

    def ask(self, link: int, now_s: float) -> int:
        """Return the number of a request sent over `link` now."""
        self._number += 1
        self._asked[self._number] = (link, now_s)
        self._newest_s[link] = now_s
        return self._number

    def grant(self, link: int, number: int, lease_s: float) -> Grant | None:
        """Take a grant in; return it if it is newer than the one in force.

        A number never asked for, answered already, or asked over another link, grants nothing.
        """
        asked_link, sent_s = self._asked.get(number, (None, 0.0))
        if asked_link != link:
            return None
        # Older requests are answered too: their answers could only be shorter.
        self._asked = {n: a for n, a in self._asked.items() if n > number or a[0] != link}
        if self._granted is not None and sent_s <= self._granted.sent_s:
            return None
        self._granted = Grant(sent_s, max(lease_s, 0.0))
        return self._granted

    def is_due(self, link: int, lease_s: float, now_s: float) -> bool:
        """Return whether `link` should carry another request: one every third of a lease."""
        newest_s = self._newest_s.get(link)
        return newest_s is None or now_s >= newest_s + lease_s / _REQUESTS_PER_LEASE

    def is_unanswered(self, link: int, lease_s: float, now_s: float) -> bool:
        """Return whether the manager at `link` let two thirds of a lease pass without an answer."""
        oldest = min((sent for on, sent in self._asked.values() if on == link), default=now_s)
        return now_s - oldest >= lease_s * (1 - 1 / _REQUESTS_PER_LEASE)

    def forget(self, link: int) -> None:
        """Drop the requests sent over a link that is gone."""
        self._asked = {n: a for n, a in self._asked.items() if a[0] != link}
        self._newest_s.pop(link, None)
