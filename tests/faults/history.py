"""What clients did and saw: one operation each, with its interval, outcome and answer.

An operation whose outcome nobody knows may have taken effect at any time after its start, or never:
its end is infinite. Kept as JSON lines, so that a failure can be judged again without a run.
"""

import json
import math
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, Self

Outcome = Literal["ok", "fail", "unknown"]
FOREVER: Final = math.inf


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one key: a secret, a service, a node."""

    number: int
    client: str
    key: str
    action: str
    argument: str = ""
    expected: int | None = None
    """The number that a compare-and-set names."""
    start: float = 0.0
    end: float = FOREVER
    outcome: Outcome = "unknown"
    error: str = ""
    """The code of a definite refusal."""
    result: int | None = None
    """The version or spec number in the answer; None for a read that found nothing."""
    value: str = ""
    """What a read found."""
    revision: str = ""
    manager: str = ""
    sends: int = 1

    def __str__(self) -> str:
        condition = "" if self.expected is None else f" if {self.expected}"
        asked = f"{self.action}({self.argument}{condition})"
        told = {
            "ok": f"-> {self.result} {self.value}".rstrip(),
            "fail": f"-> {self.error}",
            "unknown": "-> unknown",
        }[self.outcome]
        end = "  ...  " if self.end == FOREVER else f"{self.end:7.3f}"
        return (
            f"#{self.number:<5} {self.start:7.3f} {end} {self.client:<8} {self.key} {asked} {told}"
            f" [{self.manager} x{self.sends} @{self.revision}]"
        )


@dataclass(slots=True)
class History:
    """Every operation of a run; filled by several threads."""

    operations: list[Operation] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _count: int = 0

    def next_number(self) -> int:
        """Return a number for an operation about to start."""
        with self._lock:
            self._count += 1
            return self._count

    def add(self, operation: Operation) -> None:
        """Take an operation in, once nothing more will be known of it."""
        with self._lock:
            self.operations.append(operation)

    def by_key(self) -> dict[str, list[Operation]]:
        """Return the operations of each key by their starts."""
        with self._lock:
            found: dict[str, list[Operation]] = {}
            for operation in sorted(self.operations, key=lambda one: one.start):
                found.setdefault(operation.key, []).append(operation)
        return found

    def save(self, path: Path) -> None:
        """Write the operations, one a line."""
        path.write_text("".join(json.dumps(asdict(one)) + "\n" for one in self.operations))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return a history that `save` wrote."""
        return cls([Operation(**json.loads(line)) for line in path.read_text().splitlines()])


def until(operations: Iterable[Operation], moment: float) -> Iterator[Operation]:
    """Yield the history as it stood at `moment`: what had not ended by then is unknown."""
    for operation in operations:
        if operation.start > moment:
            continue
        if operation.end <= moment:
            yield operation
        elif operation.action not in {"read", "issue"}:
            yield replace(operation, end=FOREVER, outcome="unknown", result=None)
