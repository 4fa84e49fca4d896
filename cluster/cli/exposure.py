"""`secret where`, `node exposure` and `node evict`: who may have had what, and taking it away.

All of it is read from the records of deliveries: what a node says it dropped is shown as what the
node says.
"""

import time
from argparse import Namespace
from typing import Final

from cluster.cli import answers
from cluster.cli.arguments import Verbs, add_connection, add_waiting, positive
from cluster.cli.connection import PAUSE_S, Connection, connect, path_of
from cluster.cli.output import (
    ExitCode,
    cell,
    complain,
    print_json,
    print_rows,
    print_table,
    say,
    warn,
)
from cluster.protocol.errors import Unavailable

WIPE_S: Final = 4.0
"""A manager waits 2 s for an agent to report its wipe, and records it."""

_WHERE: Final = (
    ("VERSION", "version"),
    ("STATE", "version_state"),
    ("NODE", "node"),
    ("NODE STATE", "node_state"),
    ("SERVICE", "service"),
    ("SINCE", "since"),
    ("ACKNOWLEDGED", "acked_at"),
    ("DROPPED", "dropped_at"),
)
_EXPOSURE: Final = (
    ("SECRET", "secret"),
    ("VERSION", "version"),
    ("STATE", "version_state"),
    ("IN USE", "live"),
    ("SERVICE", "service"),
    ("SINCE", "since"),
    ("ACKNOWLEDGED", "acked_at"),
    ("DROPPED", "dropped_at"),
)
_REPORT: Final = (
    ("SECRET", "secret"),
    ("IN USE", "versions"),
    ("OUTCOME", "outcome"),
    ("NEXT", "detail"),
)


def add_where(verbs: Verbs) -> None:
    """Add `secret where`."""
    where = verbs.add_parser(
        "where",
        help="show which nodes may have had it, which version, and since when",
        description="Shows every node that may have had the secret, also of removed secrets. A row "
        "is written before the value leaves a manager; DROPPED is what the node reports.",
    )
    where.add_argument("name", metavar="NAME")
    where.add_argument("--version", type=positive, metavar="N", help="this version only")
    add_connection(where)
    where.set_defaults(run=_where)


def add_node_verbs(verbs: Verbs) -> None:
    """Add `node exposure` and `node evict`."""
    exposure = verbs.add_parser(
        "exposure",
        help="show everything it may ever have received, and what of it is in use",
        description="Works for evicted nodes too, by name or id.",
    )
    exposure.add_argument("name", metavar="NAME")
    add_connection(exposure)
    exposure.set_defaults(run=_exposure)

    evict = verbs.add_parser(
        "evict",
        help="revoke it, cut it off and have it wipe; with --rotate see to what it held",
        description="As `node rm`. With --rotate every version it held is marked: what rotates by "
        "itself is rotated, the rest is listed in `secret ls` and `status` until it is rotated. "
        "Run it again on an evicted node to go on where it stopped.",
    )
    evict.add_argument("name", metavar="NAME")
    evict.add_argument("--rotate", action="store_true", help="rotate or mark what it held")
    add_waiting(evict)
    add_connection(evict)
    evict.set_defaults(run=_evict)


def _where(args: Namespace) -> int:
    query = [("version", str(args.version))] if args.version is not None else []
    answer = connect(args).get(path_of("secrets", args.name, "where"), query)
    if args.format == "json":
        print_json(answer)
        return ExitCode.DONE
    rows = answers.rows(answer, "receipts")
    if args.quiet:
        for node in dict.fromkeys(cell(row.get("node")) for row in rows):
            say(node)
        return ExitCode.DONE
    print_rows(args, rows, _WHERE)
    _warn_about(answer, rows)
    return ExitCode.DONE


def _warn_about(answer: answers.Answer, rows: list[answers.Answer]) -> None:
    name = cell(answer.get("name"))
    if not rows:
        warn(f"no node was ever issued secret {name}")
    left_out = answers.number(answer, "left_out", 0)
    if left_out:
        warn(f"{left_out} older rows are left out; ask for one --version")
    if answer.get("removed") is True:
        warn(f"secret {name} was removed; its rows are kept for a while")
    if answer.get("must_rotate"):
        warn(f"secret {name} {answer['must_rotate']}")


def _exposure(args: Namespace) -> int:
    answer = connect(args).get(path_of("nodes", args.name, "exposure"))
    rows = answers.rows(answer, "receipts")
    if args.format == "json":
        print_json(answer)
    elif args.quiet:
        secrets = (row for row in rows if not row.get("config"))
        for secret in dict.fromkeys(cell(row.get("secret")) for row in secrets):
            say(secret)
    else:
        say(f"node         {cell(answer.get('name'))} ({cell(answer.get('id'))})")
        evicted_at = answer.get("evicted_at")
        say(f"state        {cell(answer.get('state'))}{f', {evicted_at}' if evicted_at else ''}")
        say(f"received     {_versions(answer, 'versions')}, {cell(answer.get('live'))} in use")
        say(f"still holds  {cell(answer.get('held'))} by its own report")
        for other in answers.texts(answer, "same_name"):
            say(f"same name    {other}")
        say("")
        print_rows(args, [_named(row) for row in rows], _EXPOSURE)
    return ExitCode.DONE


def _named(row: answers.Answer) -> answers.Answer:
    """Return a row as the table shows it: a config may have the name of a secret."""
    return {**row, "secret": f"{cell(row.get('secret'))} (config)"} if row.get("config") else row


def _evict(args: Namespace) -> int:
    connection = connect(args)
    answer = connection.write(
        "POST", path_of("nodes", args.name, "evict"), {"rotate": bool(args.rotate)}
    )
    exposure = None if args.detach else _wait_for_wipe(connection, answer)
    code = ExitCode.DONE
    if args.rotate and not args.detach:
        code = _wait_for_rotations(args, connection, answer)
    _print_eviction(args, answer, exposure)
    return code


def _wait_for_wipe(connection: Connection, answer: answers.Answer) -> answers.Answer | None:
    """Return the node's exposure once its agent reported the wipe, or as it is after a while."""
    end_s = connection.clock.monotonic_s() + WIPE_S
    while True:
        exposure = _ask(connection, answer)
        held = exposure is None or answers.number(exposure, "held", 0) > 0
        if not held or connection.clock.monotonic_s() >= end_s:
            return exposure
        time.sleep(PAUSE_S)


def _ask(connection: Connection, answer: answers.Answer) -> answers.Answer | None:
    try:
        return connection.get(path_of("nodes", answers.text(answer, "id"), "exposure"))
    except Unavailable:
        # It is evicted: losing every manager for a moment changes nothing about that.
        return None


def _wait_for_rotations(
    args: Namespace, connection: Connection, answer: answers.Answer
) -> ExitCode:
    """Wait until no secret that rotates by itself has a primary version that the node held."""
    report = answers.rows(answer, "secrets")
    waiting = {cell(row.get("secret")) for row in report if row.get("outcome") == "rotating"}
    end_s = connection.clock.monotonic_s() + args.timeout
    while waiting:
        exposure = _ask(connection, answer)
        if exposure is not None:
            rows = answers.rows(exposure, "receipts")
            primary = (r for r in rows if r.get("version_state") == "primary")
            waiting &= {cell(r.get("secret")) for r in primary if not r.get("config")}
        if waiting and connection.clock.monotonic_s() >= end_s:
            return complain(
                f"still rotating after {args.timeout:g} s: {', '.join(sorted(waiting))}; it goes "
                "on, see `strongroom secret inspect`",
                ExitCode.STILL_WAITING,
            )
        if waiting:
            time.sleep(PAUSE_S)
    return ExitCode.DONE


def _print_eviction(
    args: Namespace, answer: answers.Answer, exposure: answers.Answer | None
) -> None:
    name = cell(answer.get("name"))
    if args.format == "json":
        print_json({**answer, "exposure": exposure})
        return
    if args.quiet:
        say(name)
        return
    say(f"node {name} is evicted: nothing is issued to it, and it may not come back")
    if exposure is not None:
        held = answers.number(exposure, "held", 0)
        say(_wiped(held))
    if args.rotate:
        _print_report(answer)
    elif exposure is not None and answers.number(exposure, "live", 0):
        say(
            f"it had {_versions(exposure, 'live')} in use; see `strongroom node exposure "
            f"{name}`, or evict it with --rotate"
        )


def _wiped(held: int) -> str:
    if held == 0:
        return "its agent reported that it wiped what it held"
    return (
        f"it has not reported a wipe: it may keep {_plural(held, 'file')} until it asks again, "
        "or until their lease ends"
    )


def _print_report(answer: answers.Answer) -> None:
    rows = answers.rows(answer, "secrets")
    say(
        f"rotating {cell(answer.get('rotating'))}, must be rotated "
        f"{cell(answer.get('must_rotate'))}, nothing to do {cell(answer.get('settled'))} "
        f"(operation {cell(answer.get('operation'))})"
    )
    if rows:
        say("")
        print_table(
            [heading for heading, _ in _REPORT],
            [[cell(row.get(key)) for _, key in _REPORT] for row in rows],
        )


def _versions(answer: answers.Answer, key: str) -> str:
    return _plural(answers.number(answer, key, 0), "version")


def _plural(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
