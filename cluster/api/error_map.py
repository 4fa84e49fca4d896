"""Errors as answers: the one table from the error tree to HTTP.

FastAPI's own validation answer echoes the body, so a misspelt field would return the secret that
was sent: every handler here says where and what kind, never what was there.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from cluster.protocol.errors import ClusterError, InternalFailure, InvalidRequest

log = structlog.get_logger(__name__)

CLIENT_GONE: Final = 400
REVISION_HEADER: Final = "strongroom-revision"
_REVISION: Final = "strongroom.revision"
"""Where a request keeps what tells the revision; absent while its caller is not known."""


def error_response(error: ClusterError, headers: dict[str, str] | None = None) -> Response:
    """Return an error as JSON: `code`, `message`, `retryable`."""
    return json_response(
        {"code": error.code, "message": error.message, "retryable": error.retryable},
        error.status,
        headers,
    )


def tell_revision(request: Request, revision: Callable[[], str]) -> None:
    """Let an error that answers `request` carry the revision too."""
    request.scope[_REVISION] = revision


def json_response(
    content: object, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return `content` as JSON, never cached."""
    return Response(
        msgspec.json.encode(content),
        status,
        {"cache-control": "no-store", **(headers or {})},
        media_type="application/json",
    )


def install(app: FastAPI) -> None:
    """Put our handlers in place of FastAPI's."""
    for kind, answer in _HANDLERS.items():
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(Exception, _unexpected)


async def answer_to(request: Request, error: Exception) -> tuple[Response, bool]:
    """Return what answers an error, as the handlers do, and whether it was foreseen."""
    for kind, answer in _HANDLERS.items():
        if isinstance(error, kind):
            return await answer(request, error), True
    return await _unexpected(request, error), False


async def _cluster_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ClusterError):
        raise error
    revision = request.scope.get(_REVISION)
    return error_response(error, {REVISION_HEADER: revision()} if revision else None)


async def _validation_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    # The location of a body error can hold a key of the body, so only the schema's own part of it
    # is shown.
    where = sorted({str(item["loc"][0]) for item in error.errors() if item.get("loc")})
    return error_response(
        InvalidRequest(f"the request is not valid in its {' and '.join(where) or 'form'}")
    )


async def _http_error(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "invalid_request")
    message = {
        404: "there is no such path; see /openapi.json",
        405: "this path does not take that method",
    }
    return json_response(
        {
            "code": code,
            "message": message.get(status, "the request is not valid"),
            "retryable": False,
        },
        status,
    )


async def _gone(_request: Request, _error: Exception) -> Response:
    # Nobody reads it; without it every stranger who hangs up would be an error in the log.
    return Response(status_code=CLIENT_GONE)


async def _unexpected(request: Request, error: Exception) -> Response:
    # The exception's text may quote input, so only its type and place are logged.
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    log.error(
        "request.failed",
        error=type(error).__name__,
        file=place.tb_frame.f_code.co_filename.rpartition("/")[2] if place else "",
        line=place.tb_lineno if place else 0,
        path=getattr(request.scope.get("route"), "path", ""),
    )
    return error_response(InternalFailure())


_HANDLERS: Final[dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]]] = {
    ClusterError: _cluster_error,
    RequestValidationError: _validation_error,
    HTTPException: _http_error,
    ClientDisconnect: _gone,
}
"""What is foreseen; no kind is one of another."""
