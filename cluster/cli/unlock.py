"""`strongroom unlock`: opens this machine's manager after a start."""

from argparse import Namespace

from cluster.cli import admin_socket
from cluster.cli.arguments import Parser, add_admin_socket
from cluster.cli.credentials import json_body, read_unlock_key
from cluster.cli.output import say


def add_commands(parser: Parser) -> None:
    """Add the flags of `strongroom unlock`."""
    parser.add_argument(
        "--key-file", metavar="FILE", help="the unlock key (default: standard input or a prompt)"
    )
    parser.add_argument(
        "--detach", action="store_true", help="do not wait for a majority of managers"
    )
    add_admin_socket(parser)
    parser.set_defaults(run=_unlock)


def _unlock(args: Namespace) -> int:
    body = json_body({}, unlock_key=read_unlock_key(args.key_file))
    for step in admin_socket.steps(args.admin_socket, "/admin/unlock", body):
        say(step)
        if args.detach:
            # The first line comes once the seal file is open; the rest is waiting for others.
            return 0
    say("unlocked")
    return 0
