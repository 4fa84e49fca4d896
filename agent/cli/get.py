"""`strongroom-agent get NAME`: one value, raw, on standard output."""

import argparse
import os
import sys

from agent.cli.exit_codes import OK
from agent.cli.workload import CallFailed, add_socket_argument, ask


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `get`."""
    parser.add_argument("name", metavar="NAME", help="a secret's name, or the target of its file")
    parser.add_argument("-n", "--newline", action="store_true", help="end with a newline")
    add_socket_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the value's bytes as they are; nothing is added unless asked for."""
    try:
        value = ask(arguments.socket, "get", arguments.name)
    except CallFailed as failure:
        return failure.exit_code
    _write_all(sys.stdout.fileno(), value + b"\n" * arguments.newline)
    return OK


def _write_all(fd: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]
