"""Reads every service's files on every agent, again and again, and remembers each change."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from tests.faults.workload import mark_of
from tests.support.running import AgentProcess

LOOK_S: Final = 0.1
BROKEN: Final = "broken"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sight:
    """A file's content changed: the mark of the new value, "" for none, BROKEN for a torn one."""

    at: float
    agent: str
    service: str
    target: str
    mark: str


def read_in_place(place: Path, read: Callable[[], T]) -> T | None:
    """Return what `read` makes of the file or directory at `place`; None while there is none.

    An agent overwrites what it takes away, under those who have it open too. So what was read
    counts only if the same is in place before and after it.
    """
    while (before := _identity(place)) is not None:
        try:
            content = read()
        except (FileNotFoundError, NotADirectoryError):
            content = None
        if _identity(place) == before:
            return content
    return None


def _identity(place: Path) -> tuple[int, int] | None:
    try:
        found = place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def look(agent: AgentProcess, service: str, target: str) -> str:
    """Return the mark of the file that is there now."""
    place = agent.mount(service) / target
    content = read_in_place(place, place.read_bytes)
    return "" if content is None else mark_of(content) or BROKEN


@dataclass(slots=True)
class Observer:
    """A thread that looks."""

    agents: Sequence[AgentProcess]
    files: Sequence[tuple[str, str]]
    """Service and target."""
    sights: list[Sight] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start looking."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)

    def _run(self) -> None:
        last: dict[tuple[str, str, str], str] = {}
        try:
            while not self._stop.wait(LOOK_S):
                for agent in list(self.agents):
                    for service, target in self.files:
                        mark = look(agent, service, target)
                        place = (agent.name, service, target)
                        if last.get(place, "") != mark:
                            last[place] = mark
                            self.sights.append(Sight(time.monotonic(), *place, mark))
        except Exception as error:  # an observer that broke would see nothing wrong
            self.failures.append(f"the observer broke: {type(error).__name__}: {error}")
            raise
