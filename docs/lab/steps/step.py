"""What a step of the scenario is."""

from collections.abc import Callable
from dataclasses import dataclass

from docs.lab.stage import Lab


@dataclass(frozen=True, slots=True)
class Step:
    """One part of the guided run."""

    title: str
    text: str
    """Told before it runs: what happens and why it matters."""
    run: Callable[[Lab], None]
    involved: tuple[str, ...]
    """Processes whose last log lines are shown if it fails."""
