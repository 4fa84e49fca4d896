"""`strongroom service logs`: what a service printed lately, from all its nodes.

Owns asking the manager of each node, going on behind what was shown, and how lines look. What a
program printed passes `printable`: it must not draw on the operator's screen.
"""

import argparse
import json
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Final

from cluster.cli.answers import Answer, nested, rows
from cluster.cli.arguments import Verbs, add_connection, count
from cluster.cli.connection import Connection, Query, connect, path_of
from cluster.cli.output import ExitCode, cell, printable, say, warn
from cluster.protocol.errors import ClusterError, PermissionDenied, TooManyRequests, Unavailable

TAIL: Final = 100
MOST: Final = 1_000
LOOK_S: Final = 1.0
"""How often a follower looks for more."""
GIVE_UP_S: Final = 60.0


def add_logs(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "logs",
        help="show the last lines it printed under `strongroom-agent exec`",
        description="Of a service that was made or updated with --logs. The lines are kept in the "
        "memory of its nodes alone, and only while its programs run.",
    )
    verb.add_argument("name", metavar="NAME")
    verb.add_argument("-f", "--follow", action="store_true", help="go on with what it prints")
    verb.add_argument(
        "-n",
        "--tail",
        type=_tail,
        default=TAIL,
        metavar="N",
        help=f"lines of each node to begin with, at most {MOST} (default: {TAIL})",
    )
    verb.add_argument("-t", "--timestamps", action="store_true", help="show when, by the node")
    verb.add_argument(
        "--node", action="append", default=[], metavar="NAME", help="of this node; repeatable"
    )
    add_connection(verb)
    verb.set_defaults(run=_logs)


def _tail(text: str) -> int:
    number = count(text)
    if number > MOST:
        raise argparse.ArgumentTypeError(f"takes at most {MOST} lines")
    return number


def _logs(args: Namespace) -> int:
    log = _Log(args)
    for line in log.followed() if args.follow else log.look():
        _show(args, line)
    return ExitCode.DONE


class _Log:
    """What was shown of a service's output so far."""

    def __init__(self, args: Namespace) -> None:
        self._args = args
        self._cursors: dict[str, float] = {}
        self._complained: dict[str, str] = {}

    def followed(self) -> Iterator[Answer]:
        """Yield lines for ever, whatever happens to single managers and however busy they are."""
        lost_at: float | None = None
        while True:
            connection = connect(self._args)
            try:
                yield from self.look(connection)
                lost_at = None
            except TooManyRequests:
                lost_at = None
            except (Unavailable, TimeoutError):
                now_s = connection.clock.monotonic_s()
                lost_at = now_s if lost_at is None else lost_at
                if not self._cursors or now_s - lost_at >= GIVE_UP_S:
                    raise
            time.sleep(LOOK_S)

    def look(self, connection: Connection | None = None) -> Iterator[Answer]:
        """Yield what is new, of every node that can be asked."""
        connection = connection or connect(self._args)
        path = path_of("services", self._args.name, "logs")
        answer = connection.get(path, self._query())
        lines = self._taken(answer)
        for address, nodes in sorted(_elsewhere(answer).items()):
            if not address:
                self._complain(nodes, "no manager has its session")
                continue
            try:
                lines += self._taken(connection.get_of(address, path, self._query()))
            except PermissionDenied:
                raise
            except (ClusterError, TimeoutError) as error:
                self._complain(nodes, f"its manager at {address} does not answer: {error}")
        yield from sorted(lines, key=lambda line: str(line.get("at")))

    def _query(self) -> Query:
        query = [("tail", str(MOST if self._cursors else self._args.tail))]
        query += [("after", f"{node}:{cursor!r}") for node, cursor in self._cursors.items()]
        return query + [("node", name) for name in self._args.node]

    def _taken(self, answer: Answer) -> list[Answer]:
        for node, cursor in nested(answer, "cursors").items():
            if isinstance(cursor, int | float):
                self._cursors[node] = float(cursor)
        for one in rows(answer, "silent"):
            self._complain([cell(one.get("node"))], cell(one.get("reason")))
        return rows(answer, "lines")

    def _complain(self, nodes: list[str], reason: str) -> None:
        """Say why a node tells nothing, once."""
        for node in nodes:
            if self._complained.get(node) != reason:
                self._complained[node] = reason
                warn(f"nothing of {node}: {reason}")


def _elsewhere(answer: Answer) -> dict[str, list[str]]:
    """Return the nodes that other managers are to be asked for, by address."""
    found: dict[str, list[str]] = {}
    for one in rows(answer, "elsewhere"):
        found.setdefault(str(one.get("manager") or ""), []).append(cell(one.get("node")))
    return found


def _show(args: Namespace, line: Answer) -> None:
    if args.format == "json":
        say(json.dumps(line))
        return
    text = printable(str(line.get("text")))
    at = f"{cell(line.get('at'))} " if args.timestamps else ""
    shown = f"{at}{args.name}@{cell(line.get('node'))} | {text}"
    if args.quiet:
        shown = text
    if line.get("stream") == "stderr":
        sys.stderr.write(f"{printable(shown)}\n")
        sys.stderr.flush()
    else:
        say(shown)
