"""What a session remembers of its links, of a renewal under way, and of failures (pure).

Small records that `agent.session` changes; they decide nothing but how long to wait.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cluster.protocol.wire import FORMAT, EnvelopeKey, Hello, RevisionPair, VersionKey

EVICTED_RETRY_S: Final = 60.0
_FIRST_S: Final = 0.1
_LIMIT_S: Final = 2.0
_DOUBLINGS: Final = 10


class Phase(StrEnum):
    """Where a link stands."""

    OPENING = "opening"
    SYNCING = "syncing"
    STREAMING = "streaming"


@dataclass(slots=True)
class Link:
    """One WebSocket to one manager."""

    number: int
    phase: Phase
    waits_until_s: float
    lease_s: float = 0.0
    manager_id: str = ""
    session_id: str = ""
    suite: str = ""
    """What the manager seals values with; bound, like the session, into each of them."""
    received: RevisionPair | None = None
    """What the next Delta must build on; None before the first Snapshot."""
    resyncs: int = 0


@dataclass(frozen=True, slots=True)
class HelloFacts:
    """What a Hello says besides what the session knows."""

    agent_version: str
    boot_id: str
    mounts: str
    strength: str
    envelope_keys: tuple[EnvelopeKey, ...]

    def hello(self, held: tuple[VersionKey, ...], highest: RevisionPair | None) -> Hello:
        """Return the message that opens a session."""
        return Hello(
            formats=(FORMAT,),
            agent_version=self.agent_version,
            boot_id=self.boot_id,
            mounts=self.mounts,
            strength=self.strength,
            held=held,
            highest=highest,
            envelope_keys=self.envelope_keys,
        )


@dataclass(slots=True)
class Renewal:
    """A renewal under way: asked for, then waiting for the link that uses the new certificate."""

    asked_until_s: float | None = None
    successor_at_s: float | None = None
    successor: int | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether anything of it is still to come."""
        return (self.asked_until_s, self.successor_at_s, self.successor) != (None, None, None)


class Backoff:
    """How long to wait before the next manager is tried; `draw` gives numbers in [0, 1]."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._failures = 0
        self._evicted = False

    def next_s(self) -> float:
        """Return seconds: none at first, then 0.1 to 2 with jitter; a minute once evicted."""
        if self._evicted:
            return EVICTED_RETRY_S
        failures, self._failures = self._failures, self._failures + 1
        if failures == 0:
            return 0.0
        limit_s = min(_LIMIT_S, _FIRST_S * 2.0 ** min(failures, _DOUBLINGS))
        return _FIRST_S + self._draw() * (limit_s - _FIRST_S)

    def reset(self) -> None:
        """A manager delivered: start anew."""
        self._failures, self._evicted = 0, False

    def evict(self) -> None:
        """The node was removed: ask seldom."""
        self._evicted = True
