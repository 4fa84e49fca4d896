"""Waiting until a change is true on every node, and saying so.

The change itself is durable before this starts: when the time runs out it stays, and the nodes that
did not answer are named. A change that goes out step by step is told task by task, and ends by
itself: it is finished, or paused, or taken back.
"""

import math
import shutil
import time
from argparse import Namespace
from typing import Final

from cluster.cli.answers import Answer, number, rows
from cluster.cli.arguments import on_terminal
from cluster.cli.connection import PAUSE_S, Connection, path_of
from cluster.cli.output import (
    ExitCode,
    clear_progress,
    complain,
    print_json,
    say,
    show_progress,
)
from cluster.cli.progress_bars import bars
from cluster.protocol.errors import Unavailable

POLL_S: Final = 10.0
DRAWN_POLL_S: Final = 0.5
"""How often is asked where bars are drawn."""
POLL_MARGIN_S: Final = 10.0
_NAMED: Final = 10
_OVER: Final = frozenset({"done", "gone", "back"})
_WAITING: Final = frozenset({"pending", "gone"})


def follow(
    args: Namespace, connection: Connection, answer: Answer, what: str, wanted: str = "finished"
) -> ExitCode:
    """Wait for the rollout that `answer` names and print what it came to; `what`: "version 3".

    `wanted`: the state that is a success, where a rollout goes step by step.
    """
    rollout = answer.get("rollout")
    if args.detach or not isinstance(rollout, str):
        return _report(args, answer, f"{what} is stored; not waiting for nodes")
    watch = _Watch(args, connection, rollout, what)
    try:
        progress = watch.wait()
    except KeyboardInterrupt:
        return complain(f"interrupted; {what} stays and goes on", ExitCode.INTERRUPTED)
    clear_progress()
    if progress is None or progress.get("done") is not True:
        return _still_waiting(args, answer, progress, what)
    if progress.get("superseded_by"):
        _report(args, {**answer, "progress": progress}, None)
        return complain(f"{what} was superseded by a newer change before it was on every node")
    if progress.get("state", wanted) != wanted or progress.get("reason"):
        return _stopped(args, answer, progress, what, wanted)
    return _report(args, {**answer, "progress": progress}, _done_line(progress, what))


class _Watch:
    """One wait for one rollout."""

    def __init__(self, args: Namespace, connection: Connection, rollout: str, what: str) -> None:
        self._connection = connection
        self._path = path_of("rollouts", rollout)
        self._what = what
        self._timeout_s: float = args.timeout
        self._ends_itself = not args.timeout_said
        self._tells = args.format == "table" and not args.quiet
        self._draws = self._tells and on_terminal()
        self._told: dict[tuple[str, str], str] = {}

    def wait(self) -> Answer | None:
        """Return the last progress seen: done, or what it was when the time ran out."""
        clock = self._connection.clock
        began_s = clock.monotonic_s()
        progress: Answer | None = None
        while True:
            left_s = self._limit_s(progress) - (clock.monotonic_s() - began_s)
            poll_s = DRAWN_POLL_S if self._draws else POLL_S
            progress = self._ask(progress, min(max(left_s, 0.0), poll_s)) or progress
            if progress is not None:
                self._tell(progress)
                if progress.get("done") is True:
                    return progress
            if clock.monotonic_s() - began_s >= self._limit_s(progress):
                return progress
            if progress is not None and self._draws:
                screen = shutil.get_terminal_size()
                heading = f"{self._what}: {_reached(progress)}"
                show_progress(*bars(progress, heading, screen.columns, screen.lines))

    def _limit_s(self, progress: Answer | None) -> float:
        """Return how long to wait; what goes step by step ends by itself, so nobody need guess."""
        stepwise = progress is not None and bool(progress.get("policy"))
        return math.inf if stepwise and self._ends_itself else self._timeout_s

    def _ask(self, seen: Answer | None, wait_s: float) -> Answer | None:
        step = 0 if seen is None else number(seen, "step", 0)
        query = [("wait", f"{wait_s:.3f}"), ("after", str(step))]
        try:
            return self._connection.get(self._path, query, timeout_s=wait_s + POLL_MARGIN_S)
        except Unavailable:
            # The change is made: losing every manager for a moment does not end the wait.
            time.sleep(PAUSE_S)
            return None

    def _tell(self, progress: Answer) -> None:
        """Print what became of each task, where they go one after the other."""
        if not self._tells or not progress.get("policy"):
            return
        for target in rows(progress, "targets"):
            key = str(target.get("node")), str(target.get("service"))
            state = str(target.get("state"))
            if self._told.get(key, state if state in _WAITING else "") != state:
                error = f": {target['error']}" if target.get("error") else ""
                say(f"{key[0]} (service {key[1]}): {state}{error}")
            self._told[key] = state


def _report(args: Namespace, content: Answer, line: str | None) -> ExitCode:
    if args.format == "json":
        print_json(content)
    elif args.quiet:
        say(str(content.get("name", "")))
    elif line is not None:
        say(line)
    return ExitCode.DONE


def _done_line(progress: Answer, what: str) -> str:
    if number(progress, "total", 0) == 0:
        return f"{what} is stored; no running task uses it yet"
    return f"{what} on {_reached(progress)} in {_elapsed(progress)}"


def _stopped(args: Namespace, answer: Answer, progress: Answer, what: str, wanted: str) -> ExitCode:
    """Say how a rollout ended otherwise than it was to, and what can be done."""
    if args.format == "json":
        print_json({**answer, "progress": progress})
    reason, rollout = progress.get("reason"), answer.get("rollout")
    back = f", or take it back with `strongroom rollout rollback {rollout}`"
    match progress.get("state"):
        case "paused":
            return complain(
                f"{what} is paused on {_reached(progress)}: {reason}; let it go on with "
                f"`strongroom rollout resume {rollout}`"
                f"{back if progress.get('can_go_back') else ''}",
                ExitCode.STOPPED,
            )
        case "rolled_back" if wanted == "rolled_back":
            return _report(
                args, {**answer, "progress": progress}, f"{what} is rolled back; {reason}"
            )
        case "rolled_back":
            return complain(
                f"{what} was rolled back: {reason}; the nodes have what they had before, "
                f"see `strongroom rollout inspect {rollout}`",
                ExitCode.STOPPED,
            )
        case "finished":
            return complain(
                f"{what} on {_reached(progress)}; {reason}; these take it when they come back",
                ExitCode.STILL_WAITING,
            )
        case state:
            return complain(
                f"{what} ended as {state} on {_reached(progress)}: {reason}; "
                f"see `strongroom rollout inspect {rollout}`",
                ExitCode.STOPPED,
            )


def _still_waiting(args: Namespace, answer: Answer, progress: Answer | None, what: str) -> ExitCode:
    if args.format == "json":
        print_json({**answer, "progress": progress})
    stays = "the change stays and goes on"
    if progress is None:
        return complain(
            f"{what} is stored, but no manager tells how far it has come; {stays}",
            ExitCode.STILL_WAITING,
        )
    missing = _missing(progress)
    names = f"; missing: {', '.join(missing)}" if missing else "; no node fits yet"
    return complain(
        f"{what} on {_reached(progress)} after {args.timeout:g} s{names}; {stays}, "
        "see `strongroom service ps` and `strongroom node ls`",
        ExitCode.STILL_WAITING,
    )


def _missing(progress: Answer) -> list[str]:
    """Return the nodes that did not answer, each with the error it reported."""
    named: dict[str, str] = {}
    for target in rows(progress, "targets"):
        if target.get("state") not in _OVER:
            node = f"{target.get('node')} (service {target.get('service')})"
            error = target.get("error")
            named[node] = f"{node}: {error}" if error else node
    listed = list(named.values())
    more = len(listed) - _NAMED
    return [*listed[:_NAMED], f"and {more} more"] if more > 0 else listed


def _reached(progress: Answer) -> str:
    total = number(progress, "total", 0)
    return f"{number(progress, 'reached', 0)} of {total} {'node' if total == 1 else 'nodes'}"


def _elapsed(progress: Answer) -> str:
    elapsed_s = progress.get("elapsed_s")
    if not isinstance(elapsed_s, int | float):
        return "an unknown time"
    return f"{elapsed_s * 1000:.0f} ms" if elapsed_s < 1 else f"{elapsed_s:.1f} s"
