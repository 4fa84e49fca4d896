"""Talking to the manager on this machine over its admin socket, which only root can open.

Owns the exchange and the drawing of progress; what is asked stands in `init`, `join`, `unlock`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cluster.cli.answers import Answer, parse
from cluster.cli.failures import error_of, stated_error
from cluster.protocol.errors import MalformedMessage, OutcomeUnknown, Unavailable
from cluster.protocol.https_client import request, stream_lines
from cluster.protocol.secret_bytes import SecretBytes

CALL_TIMEOUT_S: Final = 60.0
"""Founding a cluster starts an engine and flushes disks."""
STEP_TIMEOUT_S: Final = 600.0
"""Between two lines of progress: catching up copies a whole store."""


def call(socket_path: str, method: str, path: str, body: SecretBytes | None = None) -> Answer:
    """Return the local manager's answer."""
    with _explained(socket_path):
        response = request(
            [f"unix:{socket_path}"],
            method,
            path,
            body=_revealed(body),
            headers={"content-type": "application/json"},
            timeout_s=CALL_TIMEOUT_S,
        )
    error = error_of(response.status, response.body)
    if error is not None:
        raise error
    return parse(response.body)


def steps(socket_path: str, path: str, body: SecretBytes) -> Iterator[str]:
    """Yield each line of progress as text until the manager says that it is done."""
    with (
        _explained(socket_path),
        stream_lines(
            [f"unix:{socket_path}"],
            "POST",
            path,
            body=_revealed(body),
            headers={"content-type": "application/json"},
            timeout_s=STEP_TIMEOUT_S,
        ) as answer,
    ):
        error = error_of(answer.status, b"" if answer.status < 400 else answer.read())  # noqa: PLR2004  # where HTTP's errors begin
        if error is not None:
            raise error
        for line in answer.lines():
            step = _step(line)
            if step.get("done") is True:
                return
            yield _text(step)
    raise OutcomeUnknown(
        "the manager stopped before it was done; look at `strongroom status --admin-socket`"
    )


def lines(socket_path: str, path: str) -> Iterator[Answer]:
    """Yield each line of an answer that is streamed, until the manager says that it is whole."""
    with (
        _explained(socket_path),
        stream_lines([f"unix:{socket_path}"], "GET", path, timeout_s=STEP_TIMEOUT_S) as answer,
    ):
        error = error_of(answer.status, b"" if answer.status < 400 else answer.read())  # noqa: PLR2004  # where HTTP's errors begin
        if error is not None:
            raise error
        for line in answer.lines():
            content = _step(line)
            if content.get("done") is True:
                return
            yield content
    raise Unavailable("the manager stopped before it was done; ask again")


def _step(line: bytes) -> Answer:
    try:
        step = json.loads(line)
    except (ValueError, RecursionError):
        step = None
    if not isinstance(step, dict):
        raise MalformedMessage("the manager's progress cannot be read")
    error = step.get("error")
    if isinstance(error, dict):
        raise stated_error(error)
    return step


def _text(step: Answer) -> str:
    name, detail = step.get("step", ""), step.get("detail", "")
    return f"{name}, {detail}" if detail else str(name)


def _revealed(body: SecretBytes | None) -> bytes | None:
    return body.reveal() if body is not None else None


@contextmanager
def _explained(socket_path: str) -> Iterator[None]:
    """Say what is wrong with a socket that cannot be reached: other advice than for a manager."""
    try:
        yield
    except OutcomeUnknown:
        raise
    except Unavailable as error:
        if not error.message.startswith("no manager answers"):
            raise
        raise Unavailable(
            f"no manager answers on {socket_path}; start one with `strongroom manager run`, "
            "run this as root, or name its socket with --admin-socket"
        ) from None
