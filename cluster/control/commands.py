"""Commands that a node is to run as a service: what may be asked for. Pure.

A command is a program and its arguments, never a line for a shell. Nodes run it with the service's
identity and nothing else. Source: DESIGN 6.
"""

from typing import Final

from cluster.protocol.errors import InvalidRequest

MAX_COMMAND_PARTS: Final = 32
MAX_COMMAND_BYTES: Final = 4096


def check_command(parts: tuple[str, ...], of: str) -> tuple[str, ...]:
    """Return `parts`, or raise InvalidRequest; `of` names whose command it is in the error."""
    size = sum(len(part.encode(errors="surrogatepass")) for part in parts)
    if (
        not parts
        or len(parts) > MAX_COMMAND_PARTS
        or size > MAX_COMMAND_BYTES
        or not parts[0].startswith("/")
        or any("\0" in part for part in parts)
    ):
        raise InvalidRequest(
            f"the command of {of} starts with an absolute path, without a shell, and takes at "
            f"most {MAX_COMMAND_PARTS} parts and {MAX_COMMAND_BYTES} bytes"
        )
    return parts
