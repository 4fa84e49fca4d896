"""`strongroom audit`: who asked for what, whether the record is whole, and a copy of it.

Owns the questions and how entries look; order, filters and verdicts are the manager's business.
What was exported from the store lies on one manager's disk and is asked for on its admin socket.
"""

import argparse
import json
import time
from argparse import Namespace
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

from cluster.cli import answers, audit_checkpoint
from cluster.cli.arguments import (
    DEFAULT_ADMIN_SOCKET,
    Parser,
    add_admin_socket,
    add_connection,
    duration,
    positive,
    verbs_of,
)
from cluster.cli.audit_checkpoint import TIMEOUT_S, new_file
from cluster.cli.connection import Connection, Query, connect
from cluster.cli.output import ExitCode, cell, complain, print_json, print_rows, say, warn
from cluster.protocol.errors import InvalidRequest

FOLLOW_S: Final = 1.0
PAGE: Final = 1_000

_ARCHIVES: Final = (
    ("FILE", "name"),
    ("VERDICT", "verdict"),
    ("NUMBER", "number"),
    ("UP TO", "up_to"),
    ("LINKS", "links"),
    ("FOLLOWS", "follows"),
    ("WHY", "why"),
)
_VERIFICATION: Final = "/v1/audit/verification"
_FILTERS: Final = ("caller", "action", "resource", "request_id")


def add_commands(parser: Parser) -> None:
    """Add the verbs of `strongroom audit`."""
    verbs = verbs_of(parser)

    tail = verbs.add_parser("tail", help="show the newest entries, and follow them")
    tail.add_argument("-n", "--lines", type=positive, default=20, metavar="N", help="default: 20")
    tail.add_argument("-f", "--follow", action="store_true", help="go on with what is added")
    _add_filters(tail)
    add_connection(tail)
    tail.set_defaults(run=_tail)

    query = verbs.add_parser(
        "query",
        help="show the entries that match, the oldest first",
        description="Searches what is in the store; what was exported is searched with `audit "
        "export --archive`. The search itself is on record.",
    )
    query.add_argument("--limit", type=positive, metavar="N", help="the first N only")
    _add_filters(query)
    add_connection(query)
    query.set_defaults(run=_query)

    verify = verbs.add_parser(
        "verify",
        help="recompute every chain and compare the store with what they tell",
        description="Exit 0: whole. Exit 1: not whole; see docs/how-to/integrity.md. With "
        "--checkpoint, also that nothing is gone which a signed checkpoint states.",
    )
    audit_checkpoint.add_flags(verify)
    add_connection(verify)
    verify.set_defaults(run=_verify)

    audit_checkpoint.add_verb(verbs)

    export = verbs.add_parser(
        "export",
        help="write entries as JSON lines to a new file",
        description="Writes what is in the store, and FILE.checkpoint, signed by a manager, which "
        "states how far the chains went; or with --archive one export file of this machine's "
        "manager. FILE must not exist; - is standard output, without a signed checkpoint.",
    )
    export.add_argument("file", metavar="FILE")
    export.add_argument("--archive", metavar="NAME", help="from `audit archives`")
    export.add_argument("--admin-socket", metavar="PATH", default=DEFAULT_ADMIN_SOCKET)
    _add_filters(export)
    add_connection(export)
    export.set_defaults(run=_export)

    archives = verbs.add_parser(
        "archives",
        help="verify and list what this machine's manager exported",
        description="Each file is verified link by link, against the file before it and against "
        "the checkpoint in the store. Exit 1 if one is broken or missing.",
    )
    add_admin_socket(archives)
    archives.add_argument("--format", choices=("table", "json"), default="table")
    archives.add_argument("-q", "--quiet", action="store_true", help="print names only")
    archives.set_defaults(run=_archives)


def _add_filters(verb: Parser) -> None:
    for flag, help_text in (
        ("--since", "from then on: 1h, 7d, or 2026-01-31T12:00:00Z"),
        ("--until", "before then"),
    ):
        verb.add_argument(flag, type=_moment, metavar="TIME", help=help_text)
    verb.add_argument("--caller", metavar="WHO", help="all of it, or its end: operator/alice")
    verb.add_argument("--action", metavar="ACTION", help="secret.rotate, or secret for all of it")
    verb.add_argument("--resource", metavar="WHAT", help="secret/db, or secret for all of them")
    verb.add_argument("--request-id", metavar="ID", help="that one request")
    verb.add_argument("--refused", action="store_true", help="refusals only")


def _moment(text: str) -> "timedelta | datetime":
    """Return how long ago, or a moment."""
    try:
        return timedelta(seconds=duration(text))
    except argparse.ArgumentTypeError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("times read 30s, 1h, 7d or 2026-01-31T12:00Z") from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _asked(args: Namespace, connection: Connection) -> list[tuple[str, str]]:
    query = [(name, value) for name in _FILTERS if (value := getattr(args, name))]
    for name in ("since", "until"):
        moment = getattr(args, name)
        if isinstance(moment, timedelta):
            moment = connection.clock.now() - moment
        if moment is not None:
            query.append((name, moment.isoformat()))
    return [*query, ("refused", "true")] if args.refused else query


def _pages(
    connection: Connection, query: Query, cursor: int | None = None
) -> Iterator[answers.Answer]:
    """Yield page after page until there is no more."""
    while True:
        behind = [] if cursor is None else [("cursor", str(cursor))]
        page = connection.get("/v1/audit", [*query, *behind], timeout_s=TIMEOUT_S)
        yield page
        if page.get("next") is None:
            return
        cursor = answers.number(page, "next", 0)


def _entries(connection: Connection, query: Query) -> Iterator[answers.Answer]:
    for page in _pages(connection, query):
        yield from answers.rows(page, "entries")


def _tail(args: Namespace) -> int:
    connection = connect(args)
    query = _asked(args, connection)
    last: list[answers.Answer] = []
    up_to = 0
    limited = [*query, ("order", "newest"), ("limit", str(min(args.lines, PAGE)))]
    for page in _pages(connection, limited):
        up_to = max(up_to, answers.number(page, "up_to", 0))
        last += answers.rows(page, "entries")
        if len(last) >= args.lines:
            break
    for entry in reversed(last[: args.lines]):
        _print_entry(args, entry)
    while args.follow:
        time.sleep(FOLLOW_S)
        for page in _pages(connection, query, up_to):
            for entry in answers.rows(page, "entries"):
                _print_entry(args, entry)
            up_to = max(up_to, answers.number(page, "up_to", 0))
    return ExitCode.DONE


def _query(args: Namespace) -> int:
    connection = connect(args)
    for number, entry in enumerate(_entries(connection, _asked(args, connection)), 1):
        _print_entry(args, entry)
        if number == args.limit:
            break
    return ExitCode.DONE


def _print_entry(args: Namespace, entry: answers.Answer) -> None:
    if args.format == "json":
        say(json.dumps(entry))
    elif args.quiet:
        say(cell(entry.get("position")))
    else:
        say("  ".join(_columns(entry)))


def _columns(entry: answers.Answer) -> list[str]:
    caller = cell(entry.get("caller"))
    if caller.startswith("spiffe://"):
        caller = caller.removeprefix("spiffe://").partition("/")[2]
    times = answers.number(entry, "count", 1)
    columns = [
        cell(entry.get("at")),
        "allowed" if entry.get("allowed") is True else "REFUSED",
        caller,
        cell(entry.get("action")),
        cell(entry.get("resource")),
    ]
    if times > 1:
        columns.append(f"x{times}")
    if entry.get("detail"):
        columns.append(f"({entry['detail']})")
    if entry.get("request_id"):
        columns.append(f"[{entry['request_id']}]")
    return columns


def _verify(args: Namespace) -> int:
    file = None if args.checkpoint is None else audit_checkpoint.load_proven(args)
    if args.offline:
        return audit_checkpoint.show(args, file)
    if file is None:
        verdict = connect(args).get(_VERIFICATION, timeout_s=TIMEOUT_S)
    else:
        verdict = connect(args).judge(_VERIFICATION, file, timeout_s=TIMEOUT_S)
    whole = verdict.get("whole") is True
    if args.format == "json":
        print_json(verdict)
    elif args.quiet:
        say("whole" if whole else "broken")
    else:
        chains = answers.rows(verdict, "chains")
        say(f"chains       {len(chains)} with {cell(verdict.get('links'))} links")
        say(f"records      {cell(verdict.get('records'))} compared with them")
        say(f"checkpoint   {_checkpoint(verdict)}")
        if file is not None:
            say(f"compared     {audit_checkpoint.compared(verdict)}")
        say(f"verdict      {'whole' if whole else 'NOT WHOLE'}, at revision {_revision(verdict)}")
        for wrong in answers.rows(verdict, "wrong"):
            say(f"wrong        {cell(wrong.get('kind'))}: {cell(wrong.get('what'))}")
    if whole:
        return ExitCode.DONE
    return complain("the store does not hold what its audit tells; see docs/how-to/integrity.md")


def _revision(verdict: answers.Answer) -> str:
    return cell(verdict.get("revision"))


def _checkpoint(verdict: answers.Answer) -> str:
    if not isinstance(verdict.get("checkpoint"), dict):
        return "none: nothing was exported yet"
    checkpoint = answers.nested(verdict, "checkpoint")
    return (
        f"{cell(checkpoint.get('number'))} of {cell(checkpoint.get('at'))}; what is older lies in "
        f"{cell(checkpoint.get('export'))} of manager {cell(checkpoint.get('exported_by'))}"
    )


def _export(args: Namespace) -> int:
    if args.archive is None:
        connection = connect(args)
        entries = _entries(connection, _asked(args, connection))
    else:
        if any(getattr(args, name) for name in (*_FILTERS, "since", "until", "refused")):
            raise InvalidRequest("an archive is exported whole; leave the filters out")
        path = f"/admin/audit/archives/{quote(args.archive, safe='')}"
        from cluster.cli import admin_socket

        entries = admin_socket.lines(args.admin_socket, path)
    number = 0
    with new_file(args.file) as file:
        for entry in entries:
            file.write(json.dumps(entry) + "\n")
            number += 1
    if args.file != "-":
        warn(f"{number} entries written to {args.file}")
    if args.file != "-" and args.archive is None:
        # Behind the last page: it states all chains at least as far as the entries go.
        audit_checkpoint.write(connection, f"{args.file}{audit_checkpoint.SUFFIX}")
    return ExitCode.DONE


def _archives(args: Namespace) -> int:
    from cluster.cli import admin_socket

    answer = admin_socket.call(args.admin_socket, "GET", "/admin/audit/archives")
    rows = answers.rows(answer, "archives")
    print_rows(args, rows, _ARCHIVES)
    if not rows:
        warn("this manager has exported nothing yet")
    if answer.get("whole") is not True:
        return complain("an export file is broken or missing; see docs/how-to/integrity.md")
    return ExitCode.DONE
