"""`strongroom join`: this machine's manager becomes one of a cluster's."""

import sys
from argparse import Namespace

from cluster.cli import admin_socket
from cluster.cli.arguments import Parser, add_admin_socket
from cluster.cli.credentials import json_body, read_credential, read_unlock_key
from cluster.cli.output import say
from cluster.protocol.errors import InvalidRequest


def add_commands(parser: Parser) -> None:
    """Add the flags of `strongroom join`."""
    parser.epilog = "Every step may be repeated: after an interruption run the same command again."
    parser.add_argument(
        "--manager",
        action="append",
        required=True,
        metavar="HOST:7444",
        help="a manager's join address; repeatable",
    )
    parser.add_argument(
        "--token-file", metavar="FILE", help="the manager token (default: standard input)"
    )
    parser.add_argument(
        "--unlock-key-file", metavar="FILE", help="the cluster's unlock key (default: a prompt)"
    )
    add_admin_socket(parser)
    parser.set_defaults(run=_join)


def _join(args: Namespace) -> int:
    from_stdin = args.token_file in {None, "-"}
    if from_stdin and (args.unlock_key_file == "-" or not _can_prompt(args)):
        raise InvalidRequest(
            "token and unlock key cannot both come from standard input; name a file for one"
        )
    token = read_credential(args.token_file, "join token")
    unlock_key = read_unlock_key(args.unlock_key_file)
    body = json_body({"managers": args.manager}, token=token, unlock_key=unlock_key)
    for step in admin_socket.steps(args.admin_socket, "/admin/join", body):
        say(step)
    say("this manager has joined the cluster")
    return 0


def _can_prompt(args: Namespace) -> bool:
    return args.unlock_key_file is not None or sys.stdin.isatty()
