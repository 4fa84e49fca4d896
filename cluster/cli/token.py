"""`strongroom token`: join tokens. A new one is shown once, on standard output or in a new file."""

from argparse import Namespace

from cluster.cli import answers
from cluster.cli.arguments import Parser, add_connection, duration, positive, verbs_of
from cluster.cli.connection import connect, path_of
from cluster.cli.new_token import deliver_token
from cluster.cli.output import ExitCode, print_result, print_rows

_COLUMNS = (
    ("ID", "id"),
    ("ROLE", "role"),
    ("NAME", "name"),
    ("NETWORKS", "networks"),
    ("USES LEFT", "uses_left"),
    ("EXPIRES", "expires_at"),
    ("CREATED BY", "created_by"),
)


def add_commands(parser: Parser) -> None:
    """Add the verbs of `strongroom token`."""
    verbs = verbs_of(parser)
    create = verbs.add_parser(
        "create",
        help="make a join token",
        description="The token stands alone on standard output. A manager token is as precious "
        "as the root key: it lives an hour at most and admits once.",
    )
    create.add_argument("--role", choices=("worker", "manager"), required=True)
    create.add_argument("--ttl", type=duration, default=3600.0, metavar="TIME", help="default: 1h")
    create.add_argument("--uses", type=positive, default=1, metavar="N", help="default: 1")
    create.add_argument("--name", default="", metavar="NAME", help="admit only this name")
    create.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="CIDR",
        help="admit only from this network; repeatable",
    )
    create.add_argument("--output", metavar="FILE", help="write it to a new file (0600) instead")
    add_connection(create)
    create.set_defaults(run=_create)

    ls = verbs.add_parser("ls", help="list tokens that still admit someone")
    add_connection(ls)
    ls.set_defaults(run=_list)

    rm = verbs.add_parser("rm", help="remove a token")
    rm.add_argument("token_id", metavar="ID")
    add_connection(rm)
    rm.set_defaults(run=_remove)


def _create(args: Namespace) -> int:
    draft = {
        "role": args.role,
        "ttl_s": args.ttl,
        "uses": args.uses,
        "name": args.name,
        "networks": args.network,
    }
    connection = connect(args)
    return deliver_token(
        args,
        lambda: connection.write("POST", "/v1/tokens", draft),
        "strongroom token rm ID",
    )


def _list(args: Namespace) -> int:
    tokens = answers.rows(connect(args).get("/v1/tokens"), "tokens")
    print_rows(args, tokens, _COLUMNS, key="id")
    return ExitCode.DONE


def _remove(args: Namespace) -> int:
    answer = connect(args).write("DELETE", path_of("tokens", args.token_id))
    print_result(args, answer, f"token {args.token_id} removed", "id")
    return ExitCode.DONE
