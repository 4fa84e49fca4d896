"""The log: one line of JSON per event, whatever is in it, and nothing that a type hides."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pytest

from cluster.protocol.secret_bytes import SecretBytes

ROOT = Path(__file__).parents[2]
WRITING = """
import structlog
from cluster.logs import configure_logs
from tests.unit.test_logs import LOGGED
configure_logs("json")
for name, value in LOGGED.items():
    structlog.get_logger().info("test.event", name=name, value=value)
"""


LIBRARY = "import logging; logging.getLogger('uvicorn').warning('something')\n"


class Colour(StrEnum):
    RED = "red"


@dataclass
class Hiding:
    """A value that shows less than it holds."""

    shown: int = 1
    hidden: str = field(default="canary-77b0", repr=False)


LOGGED = {
    "text": 'a\u00e9\n"b',
    "controls": "".join(map(chr, range(0x80, 0xA0))),
    "lines": "a\u2028b\u2029c\u0085d",
    "directions": "\u202a\u202e\u2066\u2069\u200f\u061c",
    "numbers": 1.5,
    "nothing": None,
    "large": 1 << 70,
    "no text": "\udcff",
    "list": [1, "two"],
    "enumeration": Colour.RED,
    "bytes": b"raw",
    "hiding": Hiding(),
    "secret": SecretBytes(b"canary-77b0"),
}  # fmt: skip
TOLD = {
    **LOGGED, "bytes": repr(b"raw"), "hiding": "Hiding(shown=1)",
    "secret": "SecretBytes(<redacted>)",
}  # fmt: skip


def test_every_event_is_a_line_of_json_and_tells_nothing_that_a_type_hides() -> None:
    written = subprocess.run(
        [sys.executable, "-c", WRITING], capture_output=True, check=True, timeout=60, cwd=ROOT
    ).stderr
    events = [json.loads(line) for line in written.splitlines()]
    assert {event["name"]: event["value"] for event in events} == TOLD
    assert {(event["event"], event["level"]) for event in events} == {("test.event", "info")}
    assert all(event["timestamp"].endswith("Z") for event in events)
    assert b"canary-77b0" not in written
    assert written.isascii(), "what is no text in ASCII is escaped: it draws on no screen"


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_without_standard_error_a_program_starts(log_format: str) -> None:
    """`2>&-`: its events are for nobody."""
    program = WRITING.replace('"json"', repr(log_format)) + LIBRARY + "print('started')"
    command = 'exec "$0" -c "$1" 2>&-'
    done = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, program],
        stdout=subprocess.PIPE, check=False, timeout=60, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, [b"started"])


FAILING = """
import logging, structlog
def fail():
    held = "".join(["canary", "-77b0"])
    try:
        raise ValueError(held)
    except ValueError:
        structlog.get_logger().error("test.failed", exc_info=True)
        logging.getLogger("asyncio").exception("a library's")
"""
AS_SHIPPED = "from cluster.logs import configure_logs; configure_logs({log_format!r}); fail()"
AS_STRUCTLOG_WOULD = """
import sys
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
fail()
"""


def said_of_a_failure(then: str) -> str:
    command = [sys.executable, "-c", FAILING + then]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=ROOT)
    assert "test.failed" in done.stderr
    return done.stderr


@pytest.mark.threat("T-18")
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_exception_is_told_without_its_text_and_without_local_variables(log_format: str) -> None:
    """Of an event of ours and of a library's; unconfigured, both tell the value."""
    said = said_of_a_failure(AS_SHIPPED.format(log_format=log_format))
    assert "ValueError at <string>:" in said
    assert "canary-77b0" not in said
    assert "canary-77b0" in said_of_a_failure(AS_STRUCTLOG_WOULD)
