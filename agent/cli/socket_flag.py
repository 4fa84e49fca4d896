"""The flag of `get` and `ls` that names the service's socket."""

import argparse

from agent.cli.workload import DEFAULT_SOCKET


def add_socket_argument(parser: argparse.ArgumentParser) -> None:
    """Declare --socket. It is a flag only: an environment is inherited further than one means."""
    parser.add_argument(
        "--socket",
        default=DEFAULT_SOCKET,
        metavar="PATH",
        help="the service's workload socket (default: %(default)s)",
    )
