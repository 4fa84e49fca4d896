"""`strongroom hook`: what a manager has in its hook directory."""

from argparse import Namespace

from cluster.cli import answers
from cluster.cli.arguments import Parser, add_connection, verbs_of
from cluster.cli.connection import connect
from cluster.cli.output import ExitCode, print_rows

_COLUMNS = (("NAME", "name"), ("KIND", "kind"), ("PROBLEM", "problem"))


def add_commands(parser: Parser) -> None:
    """Add the verbs of `strongroom hook`."""
    verbs = verbs_of(parser)
    ls = verbs.add_parser(
        "ls",
        help="list the hooks of the manager that answers, and what is wrong with each",
        description="Each manager has a directory of its own; see docs/how-to/write-a-hook.md.",
    )
    add_connection(ls)
    ls.set_defaults(run=_list)


def _list(args: Namespace) -> int:
    print_rows(args, answers.rows(connect(args).get("/v1/hooks"), "hooks"), _COLUMNS)
    return ExitCode.DONE
