"""`strongroom key`: the key epoch that seals the store."""

from argparse import Namespace

from cluster.cli.arguments import Parser, add_connection, verbs_of
from cluster.cli.connection import connect
from cluster.cli.output import ExitCode, print_result


def add_commands(parser: Parser) -> None:
    """Add the verbs of `strongroom key`."""
    rotate = verbs_of(parser).add_parser(
        "rotate",
        help="start a new key epoch and seal every record under it",
        description="May be repeated after an interruption. Managers serve meanwhile.",
    )
    add_connection(rotate)
    rotate.set_defaults(run=_rotate)


def _rotate(args: Namespace) -> int:
    answer = connect(args).write("POST", "/v1/keys/rotate")
    line = f"key epoch {answer.get('epoch')}; {answer.get('resealed')} records sealed again"
    print_result(args, answer, line, "epoch")
    return ExitCode.DONE
