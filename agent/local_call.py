"""The local protocol of an agent's unix sockets, and its blocking client.

    request   one line of JSON:  {"v":1,"op":"get","name":"db"}
    answer    one line of JSON:  {"v":1,"ok":true,"size":5}   then `size` raw bytes
              or                 {"v":1,"ok":false,"code":"permission_denied","message":"..."}

One request a connection. Owns the framing both sides share; the server is `agent.local_server`.
Standard library only: it runs with any Python 3.11 beside an application, and an application waits
for it. So the plainest call loads neither `json` nor `socket`, whose imports cost it more than the
call: both ways of reading and writing a line are JSON, and say the same.
"""

import _socket  # `socket` is this and four enumerations, which take longer than a call
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

PROTOCOL_VERSION = 1
MAX_LINE_BYTES = 4_096
MAX_BODY_BYTES = 1_048_576
CALL_TIMEOUT_S = 10.0

Address = str | os.PathLike[str]

_MAX_ADDRESS_BYTES = 100
_READ_SIZE = 65_536
_DONE = b'{"v": 1, "ok": true, "size": '
"""How the agent begins when it has what was asked for."""


class Refused(Exception):  # noqa: N818  # the word of the protocol
    """The agent answered, and the answer is no: a stable `code` and a message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CutShort(ValueError):  # noqa: N818  # a kind of malformed answer, with more to come
    """The answer ended before its end: another try may have all of it."""


def call(path: Address, operation: str, name: str | None = None) -> bytes:
    """Return the body that the agent at `path` answers.

    Raises Refused, OSError when nobody answers, and ValueError when the answer is malformed.
    """
    return ask(path, {"op": operation} if name is None else {"op": operation, "name": name})


def ask(path: Address, fields: dict[str, object], timeout_s: float = CALL_TIMEOUT_S) -> bytes:
    """Return the body that answers a request of these fields; raises what `call` does.

    `timeout_s`: of each step, TimeoutError behind it.
    """
    request = _line({"v": PROTOCOL_VERSION, **fields})
    with (
        closing(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)) as connection,
        short_address(path) as address,
    ):
        connection.settimeout(timeout_s)
        connection.connect(address)
        connection.sendall(request)
        line, newline, body = _received_line(connection)
        size = _parse_header(line + newline)
        while len(body) < size and (more := connection.recv(_READ_SIZE)):
            body += more
    if len(body) < size:
        raise CutShort("the agent's answer was cut short; try again")
    return bytes(body[:size])


def _line(fields: dict[str, object]) -> bytes:
    """Return a request's line of JSON."""
    words = [_plain(value) for value in fields.values()]
    if all(words):
        pairs = (f'"{key}": {word}' for key, word in zip(fields, words, strict=True))
        return f"{{{', '.join(pairs)}}}\n".encode()
    import json  # noqa: PLC0415

    return json.dumps(fields).encode() + b"\n"


def _plain(value: object) -> str | None:
    """Return a value in JSON, if that takes no escaping."""
    if type(value) is int:
        return str(value)
    if type(value) is str and value.isascii():
        bare = value.replace("-", "0").replace("_", "0").replace(".", "0")
        return f'"{value}"' if bare.isalnum() else None
    return None


def _received_line(connection: _socket.socket) -> tuple[bytearray, bytearray, bytearray]:
    """Return a line, its end and what came behind it; without an end where there is none."""
    received = bytearray()
    while b"\n" not in received[:MAX_LINE_BYTES]:
        more = connection.recv(_READ_SIZE) if len(received) < MAX_LINE_BYTES else b""
        if not more:
            return received[:MAX_LINE_BYTES], bytearray(), bytearray()
        received += more
    return received.partition(b"\n")


def _parse_header(line: bytes | bytearray) -> int:
    """Return the size of the body that follows."""
    if line.startswith(_DONE) and line.endswith(b"}\n") and line[len(_DONE) : -2].isdigit():
        size = int(line[len(_DONE) : -2])
        if size <= MAX_BODY_BYTES:
            return size
    import json  # noqa: PLC0415

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
def short_address(path: Address) -> Iterator[str]:
    """Yield an address for `path` that fits into the 108 bytes of a unix address."""
    if len(os.fsencode(path)) <= _MAX_ADDRESS_BYTES:
        yield str(path)
        return
    parent, name = os.path.split(path)
    directory = os.open(parent or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{name}"
    finally:
        os.close(directory)
