"""`strongroom operator`: who may run these commands; enrolling and renewing oneself."""

from argparse import Namespace

from cluster.cli import answers
from cluster.cli.arguments import (
    Parser,
    add_admin_socket,
    add_connection,
    add_labels,
    verbs_of,
)
from cluster.cli.connection import connect, path_of
from cluster.cli.output import ExitCode, print_result, print_rows, say

_COLUMNS = (
    ("NAME", "name"),
    ("ROLE", "role"),
    ("SCOPE", "labels"),
    ("ENROLLED", "enrolled"),
    ("CERTIFICATE EXPIRES", "certificate_expires_at"),
)


def add_commands(parser: Parser) -> None:
    """Add the verbs of `strongroom operator`."""
    verbs = verbs_of(parser)
    add = verbs.add_parser(
        "add",
        help="add an operator and make his one-time token",
        description="admin may do everything; deployer works on objects that carry all his "
        "labels; auditor reads. Nobody reads values.",
    )
    add.add_argument("name", metavar="NAME")
    add.add_argument("--role", choices=("admin", "deployer", "auditor"), required=True)
    add_labels(add, help_text="a label of a deployer's scope")
    add.add_argument("--output", metavar="FILE", help="write the token to a new file (0600)")
    add_connection(add)
    add.set_defaults(run=_add)

    ls = verbs.add_parser("ls", help="list operators")
    add_connection(ls)
    ls.set_defaults(run=_list)

    rm = verbs.add_parser("rm", help="remove an operator; his certificate is worth nothing at once")
    rm.add_argument("name", metavar="NAME")
    add_connection(rm)
    rm.set_defaults(run=_remove)

    enrol = verbs.add_parser(
        "enrol",
        help="become an operator on this machine by a one-time token",
        description="Makes a key here, checks the cluster by the token, and writes a context.",
    )
    enrol.add_argument(
        "--manager",
        action="append",
        required=True,
        metavar="HOST:7444",
        help="a manager's join address; repeatable",
    )
    enrol.add_argument("--token-file", metavar="FILE", help="default: standard input")
    _add_context_name(enrol)
    enrol.set_defaults(run=_enrol)

    renew = verbs.add_parser(
        "renew",
        help="give an operator of this machine a new certificate, as root on a manager",
        description="The way back after a certificate ran out; the audit names local root.",
    )
    renew.add_argument("name", metavar="NAME")
    add_admin_socket(renew)
    _add_context_name(renew)
    renew.set_defaults(run=_renew)


def _add_context_name(parser: Parser) -> None:
    parser.add_argument("--context", metavar="NAME", help="name of the context to write")


def _add(args: Namespace) -> int:
    from cluster.cli.new_token import deliver_token

    connection = connect(args)
    draft = {"name": args.name, "role": args.role, "labels": dict(args.label)}
    return deliver_token(
        args,
        lambda: connection.write("POST", "/v1/operators", draft),
        f"strongroom operator rm {args.name}",
    )


def _list(args: Namespace) -> int:
    operators = answers.rows(connect(args).get("/v1/operators"), "operators")
    print_rows(args, operators, _COLUMNS)
    return ExitCode.DONE


def _remove(args: Namespace) -> int:
    answer = connect(args).write("DELETE", path_of("operators", args.name))
    print_result(args, answer, f"operator {args.name} removed", "name")
    return ExitCode.DONE


def _enrol(args: Namespace) -> int:
    from cluster.cli.credentials import read_credential
    from cluster.cli.enrolment import enrol

    context = enrol(args.manager, read_credential(args.token_file, "join token"), args.context)
    say(f"enrolled as {context.operator} ({context.role}); context {context.name} is ready")
    return ExitCode.DONE


def _renew(args: Namespace) -> int:
    from cluster.cli.enrolment import renew_as_root

    context = renew_as_root(args.admin_socket, args.name, args.context)
    say(f"renewed {context.operator} ({context.role}); context {context.name} is ready")
    return ExitCode.DONE
