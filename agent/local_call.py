"""The local protocol of an agent's unix sockets, and its blocking client.

    request   one line of JSON:  {"v":1,"op":"get","name":"db"}
    answer    one line of JSON:  {"v":1,"ok":true,"size":5}   then `size` raw bytes
              or                 {"v":1,"ok":false,"code":"permission_denied","message":"..."}

One request a connection. Owns the framing both sides share; the server is `agent.local_server`.
Standard library only: it runs with any Python 3.11 beside an application.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROTOCOL_VERSION = 1
MAX_LINE_BYTES = 4_096
MAX_BODY_BYTES = 1_048_576
CALL_TIMEOUT_S = 10.0

_MAX_ADDRESS_BYTES = 100


class Refused(Exception):  # noqa: N818  # the word of the protocol
    """The agent answered, and the answer is no: a stable `code` and a message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CutShort(ValueError):  # noqa: N818  # a kind of malformed answer, with more to come
    """The answer ended before its end: another try may have all of it."""


def call(path: Path, operation: str, name: str | None = None) -> bytes:
    """Return the body that the agent at `path` answers.

    Raises Refused, OSError when nobody answers, and ValueError when the answer is malformed.
    """
    return ask(path, {"op": operation} if name is None else {"op": operation, "name": name})


def ask(path: Path, fields: dict[str, object], timeout_s: float = CALL_TIMEOUT_S) -> bytes:
    """Return the body that answers a request of these fields; raises what `call` does.

    `timeout_s`: of each step, TimeoutError behind it.
    """
    request = {"v": PROTOCOL_VERSION, **fields}
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection,
        short_address(path) as address,
    ):
        connection.settimeout(timeout_s)
        connection.connect(address)
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as stream:
            header = _parse_header(stream.readline(MAX_LINE_BYTES))
            body = stream.read(header)
    if len(body) != header:
        raise CutShort("the agent's answer was cut short; try again")
    return body


def _parse_header(line: bytes) -> int:
    """Return the size of the body that follows."""
    try:
        header = json.loads(line) if line.endswith(b"\n") else None
    except RecursionError:
        header = None
    match header:
        case {"v": 1, "ok": True, "size": int(size)} if 0 <= size <= MAX_BODY_BYTES:
            return size
        case {"v": 1, "ok": False, "code": str(code), "message": str(message)}:
            raise Refused(code, message)
        case _:
            raise ValueError("the agent's answer is malformed; are both of one version?")


@contextmanager
def short_address(path: Path) -> Iterator[str]:
    """Yield an address for `path` that fits into the 108 bytes of a unix address."""
    if len(os.fsencode(path)) <= _MAX_ADDRESS_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
