"""What `get` and `ls` share: the service's socket and the words for its failures.

Loads neither argparse nor pathlib: `print_value` is what an application waits for.
"""

import os
import sys

from agent.cli.exit_codes import NOT_FOUND_OR_NOT_PERMITTED, OK, code_of, fail
from agent.local_call import Refused, call

DEFAULT_SOCKET = "/run/strongroom/workload.sock"


class CallFailed(Exception):  # noqa: N818  # told to the user already; carries the exit code only
    """The call failed and the user was told why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def ask(socket: str, operation: str, name: str | None = None) -> bytes:
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


def print_value(socket: str, name: str, end: bytes = b"") -> int:
    """Write a value's bytes as they are to standard output, then `end`; return the exit code."""
    if sys.stdout is None:  # `>&-`: the socket would take its place, and be written to
        return fail("standard output is closed; nothing was asked for")
    try:
        rest = memoryview(ask(socket, "get", name) + end)
    except CallFailed as failure:
        return failure.exit_code
    output = sys.stdout.fileno()
    try:
        while rest:
            rest = rest[os.write(output, rest) :]
    except OSError as error:
        return fail(f"standard output: {error.strerror}; the value is not written, or not whole")
    return OK
