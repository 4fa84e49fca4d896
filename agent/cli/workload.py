"""What `get` and `ls` share: the service's socket and the words for its failures."""

import argparse
from pathlib import Path

from agent.cli.exit_codes import NOT_FOUND_OR_NOT_PERMITTED, code_of, fail
from agent.local_call import Refused, call

DEFAULT_SOCKET = Path("/run/strongroom/workload.sock")


class CallFailed(Exception):  # noqa: N818  # told to the user already; carries the exit code only
    """The call failed and the user was told why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def add_socket_argument(parser: argparse.ArgumentParser) -> None:
    """Declare --socket. It is a flag only: an environment is inherited further than one means."""
    parser.add_argument(
        "--socket",
        type=Path,
        default=DEFAULT_SOCKET,
        metavar="PATH",
        help="the service's workload socket (default: %(default)s)",
    )


def ask(socket: Path, operation: str, name: str | None = None) -> bytes:
    """Return the agent's answer; on failure say why and raise CallFailed."""
    try:
        return call(socket, operation, name)
    except Refused as refusal:
        raise CallFailed(fail(str(refusal), code_of(refusal.code))) from None
    except FileNotFoundError:
        code = fail(f"no socket at {socket}; is this a service of the node? see --socket")
    except PermissionError:
        message = f"{socket} belongs to another service"
        code = fail(message, NOT_FOUND_OR_NOT_PERMITTED)
    except ConnectionRefusedError:
        code = fail(f"nobody answers on {socket}; is the agent running?")
    except (OSError, ValueError) as error:
        code = fail(str(error))
    raise CallFailed(code)
