"""Logging: one event per line, a constant name and fields.

Values, tokens and keys cannot be logged because their type does not show them; nothing is filtered
here. Tracebacks are not rendered: their text may quote input.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, TextIO

import msgspec
import structlog

_NOWHERE: Final = Path(os.devnull)
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})


class _PlaceOnly(logging.Formatter):
    """Formats library events; of an exception it keeps the type and the place."""

    def formatException(self, ei: object) -> str:  # noqa: N802  # logging's name
        """Return where it happened and what kind it was, never its text, which may quote input."""
        if not isinstance(ei, tuple) or ei[0] is None:
            return ""
        return _place(ei[0], ei[2])


def _place(kind: type[BaseException], where: TracebackType | None) -> str:
    frames = traceback.extract_tb(where)
    place = f" at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return f"{kind.__name__}{place}"


def _place_only(stream: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    """Write what `_PlaceOnly` keeps: structlog's own choice renders the local variables of every
    frame wherever `rich` happens to be installed.
    """
    stream.write(_place(exc_info[0], exc_info[2]))


def _as_json(event: Mapping[str, object], default: Callable[[object], object]) -> bytes:
    """Return an event on one line; `default` tells what JSON has no form for, by its `repr`."""
    try:
        # The faster encoder looks into more types than these, past a `repr` that tells nothing.
        if all(type(value) in _PLAIN for value in event.values()):
            line = msgspec.json.encode(event)
            # Controls, line separators and marks of direction are escaped by the other alone: a
            # node's text must neither end a line nor hide one from whoever reads the log.
            if line.isascii():
                return line
    except (UnicodeEncodeError, OverflowError):
        pass  # a file's name that is no text, for one
    return json.dumps(event, default=default).encode()


def configure_logs(log_format: str) -> None:
    """Send every event to stderr, as JSON or as text."""
    # Who starts us may have closed it (`2>&-`): events are for nobody then, and we start.
    stream = sys.stderr if sys.stderr is not None else _NOWHERE.open("w", errors="backslashreplace")
    renderer: structlog.typing.Processor
    factory: Callable[..., structlog.typing.WrappedLogger]
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer(serializer=_as_json)
        factory = structlog.BytesLoggerFactory(stream.buffer)
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=_place_only
        )
        factory = structlog.PrintLoggerFactory(stream)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    # Libraries (uvicorn, asyncio, grpc) say little and only when something is wrong.
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_PlaceOnly("%(name)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
