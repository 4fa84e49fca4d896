"""`strongroom rollout`: how changes go out, and what to do with one under way."""

from argparse import Namespace

from cluster.cli import answers
from cluster.cli.arguments import Parser, add_connection, add_waiting, verbs_of
from cluster.cli.connection import Connection, connect, path_of
from cluster.cli.output import ExitCode, print_object, print_result, print_rows
from cluster.cli.rollouts import follow

_COLUMNS = (
    ("ROLLOUT", "id"),
    ("WHAT", "what"),
    ("NAME", "name"),
    ("TO", "to"),
    ("STATE", "state"),
    ("NODES", "nodes"),
    ("STARTED", "started_at"),
    ("REASON", "reason"),
)


def add_commands(parser: Parser) -> None:
    """Add the verbs of `strongroom rollout`."""
    verbs = verbs_of(parser)

    ls = verbs.add_parser("ls", help="list rollouts, the newest first")
    add_connection(ls)
    ls.set_defaults(run=_list)

    for name, run, help_text, waits in (
        ("inspect", _inspect, "show a rollout with each of its tasks", False),
        ("wait", _wait, "wait until a rollout is over or paused", True),
        ("pause", _pause, "release nothing more for now", False),
        ("resume", _resume, "let a paused rollout go on; what failed is tried again", True),
        ("rollback", _roll_back, "take back what it brought so far, on every node", True),
    ):
        verb = verbs.add_parser(name, help=help_text)
        verb.add_argument("rollout", metavar="ROLLOUT", help="its id, from `rollout ls`")
        if waits:
            add_waiting(verb)
        add_connection(verb)
        verb.set_defaults(run=run)


def _list(args: Namespace) -> int:
    rollouts = answers.rows(connect(args).get("/v1/rollouts"), "rollouts")
    rows = rollouts if args.format == "json" else [{**row, **_summary(row)} for row in rollouts]
    print_rows(args, rows, _COLUMNS, key="id")
    return ExitCode.DONE


def _inspect(args: Namespace) -> int:
    print_object(args, connect(args).get(path_of("rollouts", args.rollout)), key="id")
    return ExitCode.DONE


def _wait(args: Namespace) -> int:
    connection = connect(args)
    shown = connection.get(path_of("rollouts", args.rollout))
    answer = {"name": shown.get("name"), "rollout": args.rollout}
    return follow(args, connection, answer, _what(shown))


def _pause(args: Namespace) -> int:
    answer = connect(args).write("POST", path_of("rollouts", args.rollout, "pause"))
    line = f"rollout paused; let it go on with `strongroom rollout resume {args.rollout}`"
    print_result(args, answer, line, "rollout")
    return ExitCode.DONE


def _resume(args: Namespace) -> int:
    connection = connect(args)
    answer = connection.write("POST", path_of("rollouts", args.rollout, "resume"))
    return follow(args, connection, answer, _named(connection, args.rollout))


def _roll_back(args: Namespace) -> int:
    connection = connect(args)
    answer = connection.write("POST", path_of("rollouts", args.rollout, "rollback"))
    what = _named(connection, args.rollout)
    return follow(args, connection, answer, what, wanted="rolled_back")


def _named(connection: Connection, rollout: str) -> str:
    return _what(connection.get(path_of("rollouts", rollout)))


def _what(rollout: answers.Answer) -> str:
    if rollout.get("what") == "rotate":
        return f"version {rollout.get('version')}"
    return f"spec {rollout.get('spec_number')}"


def _summary(rollout: answers.Answer) -> answers.Answer:
    return {
        "to": _what(rollout),
        "nodes": f"{rollout.get('reached')}/{rollout.get('total')}",
    }
