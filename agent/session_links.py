"""Which links a session has, which of them is the current one, and what follows when one goes
(pure).

Owns the current link, the successor that a renewed certificate opens, and how long to wait before
the next manager is asked. What a link brings is `agent.session`'s, which has the theory of
operation. Must not read a clock, draw randomness or do any IO.
"""

from collections.abc import Callable
from typing import Final

from agent import effects
from agent.lease import Lease
from agent.session_state import Backoff, Link, Phase, Renewal

ANSWER_LIMIT_S: Final = 15.0
"""How long a manager may take to answer Hello, Resync or SigningRequest."""

_Todo = list[effects.Effect]


class SessionLinks:
    """The links of one session; `lease` is told of each that is gone."""

    def __init__(self, lease: Lease, draw: Callable[[], float]) -> None:
        self._lease = lease
        self._links: dict[int, Link] = {}
        self._number: int | None = None
        self.renewal = Renewal()
        self.backoff = Backoff(draw)

    @property
    def current(self) -> Link | None:
        """The link in service."""
        return self._links.get(self._number or 0)

    def is_current(self, link: Link) -> bool:
        """Return whether `link` is the one in service."""
        return link.number == self._number

    def find(self, number: int) -> Link | None:
        """Return a link by its number, or None once it was given up."""
        return self._links.get(number)

    def all(self) -> list[Link]:
        """Return every link, in the order they opened."""
        return list(self._links.values())

    def opened(self, number: int, now_s: float) -> None:
        """Take in a link that just opened: the current one, or the successor of it."""
        self._links[number] = Link(number, Phase.OPENING, now_s + ANSWER_LIMIT_S)
        if self._number is None:
            self._number = number
        else:
            self.renewal.successor, self.renewal.successor_at_s = number, None

    def closed(self, number: int | None, now_s: float) -> _Todo:
        """Take in that a link is gone, or (None) that one could not be opened."""
        if number is None:
            return self._lost("could not connect", now_s)
        if number not in self._links:
            return []
        return self._forget(number, "connection lost", now_s)

    def leave(self, link: Link, reason: str, now_s: float) -> _Todo:
        """Close a link; another manager is asked if it was the last."""
        return [effects.Close(link.number, reason), *self._forget(link.number, reason, now_s)]

    def promote(self, link: Link) -> _Todo:
        """Make `link` the current one; the one before is closed, now that nothing can be lost."""
        if link.number == self._number:
            return []
        old, self._number, self.renewal = self._number, link.number, Renewal()
        if old is None or self._links.pop(old, None) is None:
            return []
        self._lease.forget(old)
        return [effects.Close(old, "renewed")]

    def tick_renewal(self, now_s: float) -> _Todo:
        """Give up a request for a certificate that is not answered; open the successor when due."""
        renewal = self.renewal
        if renewal.asked_until_s is not None and now_s >= renewal.asked_until_s:
            self.renewal = Renewal()  # the loop asks again
        elif renewal.successor_at_s is not None and now_s >= renewal.successor_at_s:
            renewal.successor_at_s = now_s + ANSWER_LIMIT_S
            return [effects.OpenSuccessor()]
        return []

    def _forget(self, number: int, reason: str, now_s: float) -> _Todo:
        """Drop a link; what it leaves behind decides whether to connect anew."""
        del self._links[number]
        self._lease.forget(number)
        if number == self.renewal.successor:
            self.renewal = Renewal(successor_at_s=now_s + self.backoff.next_s())
            return []
        self._number, self.renewal.asked_until_s = None, None
        if self.renewal.successor is not None:
            self._number, self.renewal = self.renewal.successor, Renewal()
            return []
        self.renewal = Renewal()
        return self._lost(reason, now_s)

    def _lost(self, reason: str, now_s: float) -> _Todo:
        if self._links:
            self.renewal.successor_at_s = now_s + self.backoff.next_s()
            return []
        return [effects.Reconnect(self.backoff.next_s(), reason)]
