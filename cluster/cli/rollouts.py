"""Waiting until a change is true on every node, and saying so.

The change itself is durable before this starts: when the time runs out it stays, and the nodes that
did not answer are named.
"""

import time
from argparse import Namespace
from typing import Final

from cluster.cli.answers import Answer, number, rows
from cluster.cli.connection import PAUSE_S, Connection, path_of
from cluster.cli.output import (
    ExitCode,
    clear_progress,
    complain,
    print_json,
    say,
    show_progress,
)
from cluster.protocol.errors import Unavailable

POLL_S: Final = 10.0
POLL_MARGIN_S: Final = 10.0
_NAMED: Final = 10
_OVER: Final = frozenset({"done", "gone"})


def follow(args: Namespace, connection: Connection, answer: Answer, what: str) -> ExitCode:
    """Wait for the rollout that `answer` names and print what it came to; `what`: "version 3"."""
    rollout = answer.get("rollout")
    if args.detach or not isinstance(rollout, str):
        return _report(args, answer, f"{what} is stored; not waiting for nodes")
    try:
        progress = _wait(connection, rollout, what, args.timeout)
    except KeyboardInterrupt:
        return complain(f"interrupted; {what} stays and goes on", ExitCode.INTERRUPTED)
    clear_progress()
    if progress is None or progress.get("done") is not True:
        return _still_waiting(args, answer, progress, what)
    if progress.get("superseded_by"):
        _report(args, {**answer, "progress": progress}, None)
        return complain(f"{what} was superseded by a newer change before it was on every node")
    return _report(args, {**answer, "progress": progress}, _done_line(progress, what))


def _wait(connection: Connection, rollout: str, what: str, timeout_s: float) -> Answer | None:
    """Return the last progress seen: done, or what it was when the time ran out."""
    clock = connection.clock
    end_s = clock.monotonic_s() + timeout_s
    progress: Answer | None = None
    while True:
        left_s = max(end_s - clock.monotonic_s(), 0.0)
        wait_s = min(left_s, POLL_S)
        try:
            progress = connection.get(
                path_of("rollouts", rollout),
                [("wait", f"{wait_s:.3f}")],
                timeout_s=wait_s + POLL_MARGIN_S,
            )
        except Unavailable:
            # The change is made: losing every manager for a moment does not end the wait.
            time.sleep(PAUSE_S)
        if progress is not None and progress.get("done") is True:
            return progress
        if clock.monotonic_s() >= end_s:
            return progress
        if progress is not None:
            show_progress(f"{what}: {_reached(progress)}")


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
