"""What each side of a comparison can be asked to do: the same work, on the same machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class CannotRun(Exception):  # noqa: N818  # says what went wrong
    """This machine lacks what a peer needs."""


class Work(StrEnum):
    """The work, as rows name it."""

    CREATE_ALONE = "create, 1 caller"
    CREATE_TOGETHER = "create, 64 callers"
    ISSUE = "read one secret of 1 KB, 32 connections"
    ROTATE = "rotate to new bytes in the service's file"
    LOSE_LEADER = "kill -9 of the leader to first write"
    LIST = "list 1000 secrets by command"

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self in {Work.CREATE_ALONE, Work.CREATE_TOGETHER, Work.ISSUE}


@dataclass(frozen=True, slots=True)
class Amount:
    """How much one sample asks for."""

    creates: int
    issues: int


class Side(Protocol):
    """One system under comparison, running with three servers and one file writer."""

    @property
    def name(self) -> str:
        """What rows call it."""
        ...

    @property
    def notes(self) -> Mapping[Work, str]:
        """What a reader must know of its rows."""
        ...

    def sample(self, work: Work, amount: Amount) -> float | None:
        """Do some work once: return requests a second, seconds (milliseconds for a command), or
        None where it has no such thing."""
        ...

    def memory(self) -> Mapping[str, float]:
        """Return megabytes (RssAnon) by kind of process, now."""
        ...
