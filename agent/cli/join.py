"""`strongroom-agent join`: give this node its identity.

The join token comes from a file or standard input, never from the command line, which every
process can read.
"""

import argparse
import sys
from pathlib import Path

from agent.cli.exit_codes import NOT_FOUND_OR_NOT_PERMITTED, fail
from agent.cli.printing import tell

DEFAULT_DATA_DIRECTORY = Path("/var/lib/strongroom-agent")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `join`."""
    parser.add_argument(
        "--manager",
        action="append",
        required=True,
        metavar="HOST:PORT",
        help="a manager's join listener (repeatable: the first that answers is asked)",
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="where the join token is (default: standard input)",
    )
    parser.add_argument("--name", help="the node's name (default: the host name)")
    parser.add_argument("--data-dir", type=Path, default=DEFAULT_DATA_DIRECTORY, metavar="DIR")


def run(arguments: argparse.Namespace) -> int:
    """Join, print the node's id, and return the exit code; safe to repeat."""
    import socket

    from agent.hardening import harden_process
    from agent.identity import DataDirectory
    from agent.joining import join
    from cluster.pki.join_token import JoinToken
    from cluster.protocol.errors import ClusterError, PermissionDenied

    harden_process()
    try:
        token = JoinToken.parse(_read_token(arguments.token_file))
        name = arguments.name or socket.gethostname()
        identity = join(arguments.manager, token, name, DataDirectory(arguments.data_dir))
    except PermissionDenied as error:
        return fail(error.message, NOT_FOUND_OR_NOT_PERMITTED)
    except ClusterError as error:
        return fail(error.message)
    except OSError as error:
        return fail(f"{error.filename or arguments.data_dir}: {error.strerror}")
    return tell(f"{identity.id.subject}\n")


def _read_token(file: Path | None) -> str:
    if file is not None:
        return file.read_text()
    if sys.stdin.isatty():
        sys.stderr.write("join token: ")
        sys.stderr.flush()
    return sys.stdin.readline()
