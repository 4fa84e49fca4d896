"""`strongroom events`: what happened, who did it, as it happens and from any revision still kept.

Owns how events look, and going on where a lost connection left off. An event is shown once the
manager said that its revision is whole; it goes on behind the last of these, on any manager, so
each event is shown once and none is missed.
"""

import argparse
import json
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Final

from cluster.cli.answers import Answer
from cluster.cli.arguments import Parser, add_connection
from cluster.cli.connection import Query, connect
from cluster.cli.failures import stated_error
from cluster.cli.output import ExitCode, cell, say, warn
from cluster.protocol.errors import MalformedMessage, Unavailable

FIELDS: Final = ("type", "action", "name")
GIVE_UP_S: Final = 60.0
"""How long a follower looks for a manager that goes on."""
PAUSE_S: Final = 0.5


def add_commands(parser: Parser) -> None:
    """Add the flags of `strongroom events`."""
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what happens")
    parser.add_argument(
        "--since",
        metavar="REVISION",
        help="what happened behind this revision (default: all that is kept, or with --follow "
        "from now on)",
    )
    parser.add_argument(
        "--filter",
        type=_filter,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="type=, action= or name=; of equal keys one must match, of different keys all",
    )
    parser.epilog = (
        "Types: secret, config, service, node, manager, operator.\n"
        "Actions: create, update, remove.\n"
        "With --format json one object a line; the field revision is what --since takes."
    )
    add_connection(parser)
    parser.set_defaults(run=_events)


def _filter(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if key not in FIELDS or not equals or not value:
        raise argparse.ArgumentTypeError("filters read type=, action= or name=VALUE")
    return key, value


def _events(args: Namespace) -> int:
    for event in _followed(args) if args.follow else _past(args):
        _show(args, event)
    return ExitCode.DONE


def _past(args: Namespace) -> Iterator[Answer]:
    """Yield the events up to now; raise MalformedMessage if they break off."""
    reached = None
    for batch, revision in _batches(connect(args).lines("/v1/events", _query(args, args.since))):
        reached = revision
        yield from batch
    if reached is None:
        raise MalformedMessage("the manager's answer breaks off; ask again")


def _followed(args: Namespace) -> Iterator[Answer]:
    """Yield the events for ever, whatever happens to single managers."""
    reached: str | None = args.since
    turn = 0
    lost_at: float | None = None
    while True:
        connection = connect(args)
        try:
            lines = connection.lines("/v1/events", _query(args, reached), turn=turn)
            for batch, revision in _batches(lines):
                reached, lost_at = revision, None
                yield from batch
        except (Unavailable, MalformedMessage, TimeoutError) as error:
            failure: Exception = error
        else:
            failure = Unavailable("the manager ended the stream; try again or another manager")
        now_s = connection.clock.monotonic_s()
        if reached is None or (lost_at is not None and now_s - lost_at >= GIVE_UP_S):
            raise failure
        if lost_at is None:
            lost_at = now_s
            warn("the stream of events was interrupted; looking for a manager that goes on")
        turn += 1
        time.sleep(PAUSE_S)


def _batches(lines: Iterator[bytes]) -> Iterator[tuple[list[Answer], str]]:
    """Yield the events of whole revisions, and the last of these revisions."""
    batch: list[Answer] = []
    for line in lines:
        content = _parsed(line)
        if "type" in content:
            batch.append(content)
        else:
            yield batch, str(content.get("revision"))
            batch = []


def _parsed(line: bytes) -> Answer:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise MalformedMessage("the manager's events cannot be read; is it of another version?")
    error = content.get("error")
    if isinstance(error, dict):
        raise stated_error(error)
    return content


def _query(args: Namespace, since: str | None) -> Query:
    query: list[tuple[str, str]] = [*args.filter]
    if args.follow:
        query.append(("follow", "true"))
    if since is not None:
        query.append(("since", since))
    return query


def _show(args: Namespace, event: Answer) -> None:
    if args.format == "json":
        say(json.dumps(event))
    elif args.quiet:
        say(cell(event.get("name")))
    else:
        say(_line(event))


def _line(event: Answer) -> str:
    attributes = event.get("attributes")
    told = attributes.items() if isinstance(attributes, dict) else ()
    who = cell(event.get("by"))
    by = who.removeprefix("spiffe://").partition("/")[2] if who.startswith("spiffe://") else who
    words = [
        cell(event.get("at")),
        cell(event.get("type")),
        cell(event.get("action")),
        cell(event.get("name")),
        f"by {by}",
        f"({', '.join([cell(event.get('cause')), *(f'{key}={value}' for key, value in told)])})",
    ]
    return " ".join(words)
