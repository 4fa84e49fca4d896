"""Logging: one event per line, a constant name and fields.

Values, tokens and keys cannot be logged because their type does not show them; nothing is filtered here. Tracebacks are not rendered:
their text may quote input.
"""

import logging
import sys

import structlog


def configure_logs(log_format: str) -> None:
    """Send every event to stderr, as JSON or as text."""
    renderer = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries (uvicorn, asyncio, grpc) say little and only when something is wrong.
    logging.basicConfig(
        level=logging.WARNING, format="%(name)s %(levelname)s %(message)s", stream=sys.stderr
    )
