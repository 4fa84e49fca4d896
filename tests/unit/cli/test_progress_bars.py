"""The bars drawn while a change goes out: what stands in them, and that nothing of them stays."""

import io
import re
import sys

import pytest

from cluster.cli.context_files import Context
from cluster.cli.output import clear_progress, say, show_progress
from cluster.cli.progress_bars import BAR, bars
from tests.unit.cli.canned import Canned
from tests.unit.cli.conftest import Run

_PIECES = re.compile(r"\x1b\[(\d*)([AJ])|([\r\n])|([^\x1b\r\n]+)")


class Terminal(io.StringIO):
    """A terminal as far as it is used: returns, line feeds, cursor up, erase to the end."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """Return what is left standing on it."""
        lines, row, column = [""], 0, 0
        for amount, command, control, text in _PIECES.findall(self.getvalue()):
            if command == "A":
                row -= int(amount)
            elif command == "J":
                lines = [*lines[:row], lines[row][:column]]
            elif control == "\r":
                column = 0
            elif control == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            else:
                lines[row] = lines[row][:column].ljust(column) + text
                column += len(text)
        return [line for line in lines if line]


def opened(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Return a screen that shows standard output and standard error; call it within the test."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    return terminal


def progress(*states: str, error: str = "") -> dict[str, object]:
    targets = [
        {"node": f"n{n}", "service": "web", "state": state, "error": error if n == 1 else ""}
        for n, state in enumerate(states, 1)
    ]
    return {"targets": targets}


def test_each_task_has_a_bar_that_fills() -> None:
    assert bars(progress("done", "released", "pending"), "spec 2", 80, 24) == [
        "spec 2",
        f"n2 (web)  [{'=' * 10}>{' ' * 9}]  released",
        f"n3 (web)  [>{' ' * 19}]  pending",
        f"n1 (web)  [{'=' * BAR}]  done",
    ]


def test_failed_task_stands_first_and_says_why() -> None:
    shown = bars(progress("failed", "released", error="unhealthy"), "spec 2", 80, 24)
    assert shown[1] == f"n1 (web)  [{'!' * BAR}]  failed: unhealthy"


def test_tasks_that_are_gone_are_left_out() -> None:
    assert bars(progress("gone"), "spec 2", 80, 24) == ["spec 2"]


@pytest.mark.parametrize("height", [1, 2, 3, 6, 12])
def test_the_screen_is_never_overrun(height: int) -> None:
    lines = bars(progress(*["pending"] * 10), "spec 2", 20, height)
    assert len(lines) <= max(height - 1, 2)
    assert max(map(len, lines)) < 20
    shown = sum("[" in line for line in lines)
    assert lines[-1] == f"... and {10 - shown} more" if shown < 10 else shown == 10


def test_a_drawing_replaces_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = opened(monkeypatch)
    show_progress("spec 2", "a", "b", "c")
    assert terminal.screen() == ["spec 2", "a", "b", "c"]
    show_progress("spec 2", "x")
    assert terminal.screen() == ["spec 2", "x"]
    say("n1: released")
    show_progress("spec 2", "y")
    assert terminal.screen() == ["n1: released", "spec 2", "y"]
    clear_progress()
    assert terminal.screen() == ["n1: released"]


def test_a_name_cannot_move_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = opened(monkeypatch)
    show_progress("spec 2", "n1\x1b[2J")
    assert terminal.screen() == ["spec 2", "n1\\x1b[2J"]


def follow(manager: Canned) -> None:
    counts: dict[str, object] = {"total": 1, "elapsed_s": 1.0}
    manager.on("POST /v1/services/web/rollback", (200, {"spec_number": 3, "rollout": "r1"}))
    manager.on(
        "GET /v1/rollouts/r1",
        (200, {**counts, **progress("pending"), "done": False, "reached": 0}),
        (200, {**counts, **progress("done"), "done": True, "reached": 1}),
    )


def test_bars_are_drawn_on_a_terminal_and_removed(
    run: Run, manager: Canned, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = opened(monkeypatch)
    follow(manager)
    assert run("service", "rollback", "web").code == 0
    drawn = terminal.getvalue()
    assert ("spec 3: 0 of 1 node" in drawn, "n1 (web)  [>" in drawn) == (True, True)
    assert terminal.screen() == ["spec 3 on 1 of 1 node in 1.0 s"]


@pytest.mark.parametrize("flag", ["--quiet", "--format=json"])
def test_no_bars_where_they_were_not_asked_for(
    run: Run, manager: Canned, context: Context, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    terminal = opened(monkeypatch)
    follow(manager)
    assert run("service", "rollback", "web", flag).code == 0
    assert "[>" not in terminal.getvalue()
