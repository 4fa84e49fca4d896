"""How long the agent may still keep what must not outlive its managers' word (pure).

A grant counts from the moment its request was *sent*, on CLOCK_BOOTTIME, so neither a slow
network nor a suspended machine lengthens it. Must not read a clock. Source: DESIGN 6.
"""

from typing import Final

_REQUESTS_PER_LEASE: Final = 3


class Lease:
    """Counts one agent's lease over all its links. Times are CLOCK_BOOTTIME seconds."""

    def __init__(self, deadline_s: float | None) -> None:
        self._deadline_s = deadline_s
        self._asked: dict[int, tuple[int, float]] = {}
        self._number = 0
        self._newest_s: dict[int, float] = {}

    @property
    def deadline_s(self) -> float | None:
        """When the lease runs out; None if there never was one."""
        return self._deadline_s

    def has_lapsed(self, now_s: float) -> bool:
        """Return whether no lease covers `now_s`."""
        return self._deadline_s is None or now_s >= self._deadline_s

    def ask(self, link: int, now_s: float) -> int:
        """Return the number of a request sent over `link` now."""
        self._number += 1
        self._asked[self._number] = (link, now_s)
        self._newest_s[link] = now_s
        return self._number

    def grant(self, link: int, number: int, lease_s: float) -> bool:
        """Take a grant in; return whether it prolonged the lease.

        A number never asked for, answered already, or asked over another link, grants nothing.
        """
        asked_link, sent_s = self._asked.get(number, (None, 0.0))
        if asked_link != link:
            return False
        # Older requests are answered too: their answers could only be shorter.
        self._asked = {n: a for n, a in self._asked.items() if n > number or a[0] != link}
        until_s = sent_s + max(lease_s, 0.0)
        if self._deadline_s is not None and until_s <= self._deadline_s:
            return False
        self._deadline_s = until_s
        return True

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
