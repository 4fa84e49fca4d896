"""A bar for each task of a change, drawn on a terminal while somebody waits for it.

Pure: returns the lines. What draws and removes them is `output`. Tasks that are still on their way
come first, because a screen may be too small for all of them. Source: the bars of `docker service`.
"""

from collections.abc import Sequence
from typing import Final

from cluster.cli.answers import Answer, rows

BAR: Final = 20
_SHARE: Final = {"pending": 0.0, "released": 0.5}
"""How far a task is in a state; every other state is an end."""
_ENDS_BADLY: Final = frozenset({"failed", "unreachable"})


def bars(progress: Answer, heading: str, width: int, height: int) -> list[str]:
    """Return the heading and a line for each task, none wider or more than the screen has."""
    targets = [one for one in rows(progress, "targets") if one.get("state") != "gone"]
    # Sorting is stable: within a kind the manager's order stays, and lines do not jump about.
    ordered = sorted(targets, key=lambda one: _rank(str(one.get("state"))))
    room = max(height - 2, 1)
    shown = ordered if len(ordered) <= room else ordered[: max(room - 1, 0)]
    lines = [heading, *_drawn(shown)]
    if len(shown) < len(ordered):
        lines.append(f"... and {len(ordered) - len(shown)} more")
    # One column is left free: a full line would wrap and the next drawing would miss it.
    return [line[: max(width - 1, 1)] for line in lines]


def _drawn(targets: Sequence[Answer]) -> list[str]:
    names = [f"{one.get('node')} ({one.get('service')})" for one in targets]
    widest = max(map(len, names), default=0)
    return [
        f"{name.ljust(widest)}  {_bar(one)}  {_said(one)}"
        for name, one in zip(names, targets, strict=True)
    ]


def _bar(target: Answer) -> str:
    state = str(target.get("state"))
    if state in _ENDS_BADLY:
        return f"[{'!' * BAR}]"
    filled = round(_SHARE.get(state, 1.0) * BAR)
    tip = ">" if filled < BAR else ""
    return f"[{('=' * filled + tip).ljust(BAR)}]"


def _said(target: Answer) -> str:
    error = target.get("error")
    return f"{target.get('state')}: {error}" if error else str(target.get("state"))


def _rank(state: str) -> int:
    if state in _ENDS_BADLY:
        return 0
    return {"released": 1, "pending": 2}.get(state, 3)
