"""`strongroom-agent get NAME`: one value, raw, on standard output."""

import argparse

from agent.cli.socket_flag import add_socket_argument
from agent.cli.workload import print_value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `get`."""
    parser.add_argument("name", metavar="NAME", help="a secret's name, or the target of its file")
    parser.add_argument("-n", "--newline", action="store_true", help="end with a newline")
    add_socket_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the value's bytes as they are; nothing is added unless asked for."""
    return print_value(arguments.socket, arguments.name, b"\n" * arguments.newline)
