"""From any failure to one error line and an exit code; from an answer to the error it means.

The table of exit codes is by the classes of `cluster.protocol.errors`. What is not one of them is
shown by its type and place only: its text may quote input.
"""

import json
from typing import Final

from cluster.cli.output import ExitCode, complain
from cluster.protocol.errors import (
    ClusterError,
    Conflict,
    InternalFailure,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)
from cluster.protocol.errors import error_of as named_error

_EXIT_CODES: Final[tuple[tuple[type[ClusterError], ExitCode], ...]] = (
    (Unauthenticated, ExitCode.NOT_PERMITTED),
    (PermissionDenied, ExitCode.NOT_PERMITTED),
    (Unavailable, ExitCode.UNAVAILABLE),
    (TooManyRequests, ExitCode.UNAVAILABLE),
)

_BY_STATUS: Final[dict[int, type[ClusterError]]] = {
    400: InvalidRequest,
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    405: NotFound,
    409: Conflict,
    413: PayloadTooLarge,
    429: TooManyRequests,
    503: Unavailable,
}
"""For codes that a newer manager may send."""


def explain(error: Exception) -> ExitCode:
    """Print what went wrong and what to do next, and return the exit code."""
    match error:
        case ExceptionGroup(exceptions=[single]):
            # A group of tasks wraps the one failure that ended it.
            return explain(single)
        case ClusterError():
            return complain(_told(error, error.message), exit_code(error))
        case TimeoutError():
            message = "no manager answered in time; see `strongroom status`"
            return complain(_told(error, message), ExitCode.UNAVAILABLE)
        case OSError():
            where = f"{error.filename}: " if isinstance(error.filename, str) else ""
            return complain(f"{where}{error.strerror or type(error).__name__}")
        case _:
            return complain(
                f"this command failed ({type(error).__name__} at {_place(error)}); "
                "please report it with `strongroom --version`"
            )


def _told(error: Exception, message: str) -> str:
    """Return a message with the id of the request that failed, which logs and audit have too."""
    notes = getattr(error, "__notes__", ())
    return f"{message} ({'; '.join(notes)})" if notes else message


def exit_code(error: ClusterError) -> ExitCode:
    """Return the exit code of an error."""
    for kind, code in _EXIT_CODES:
        if isinstance(error, kind):
            return code
    return ExitCode.FAILED


def error_of(status: int, body: bytes) -> ClusterError | None:
    """Return the error an answer means, or None for a good one."""
    if status < 400:  # noqa: PLR2004  # where HTTP's errors begin
        return None
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        content = {}
    return stated_error(content, status)


def stated_error(content: dict[str, object], status: int = 500) -> ClusterError:
    """Return the error in `{"code", "message"}`; `status` helps with a code we do not know."""
    message = content.get("message")
    known = _BY_STATUS.get(status, InternalFailure).code
    error = named_error(content.get("code"), message) or named_error(known, message)
    return error or InternalFailure()


def _place(error: Exception) -> str:
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return "an unknown place"
    return f"{place.tb_frame.f_code.co_filename.rpartition('/')[2]}:{place.tb_lineno}"
