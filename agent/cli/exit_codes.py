"""The exit codes of `strongroom-agent`, and the way a failure is told: one line on stderr."""

import sys

OK = 0
FAILED = 1
USAGE = 2
NOT_FOUND_OR_NOT_PERMITTED = 3
TIMED_OUT = 4

_NOT_YOURS = {"permission_denied", "not_found", "service_not_found"}


def fail(message: str, code: int = FAILED) -> int:
    """Print `message` for a person, if there is somewhere to, and return `code`."""
    try:
        if sys.stderr is not None:
            sys.stderr.write(f"strongroom-agent: {message}\n")
    except OSError:
        # What is not written would be tried again at the end, and take the place of the code.
        sys.stderr = None
    return code


def code_of(refusal: str) -> int:
    """Return the exit code for a refusal's stable code."""
    return NOT_FOUND_OR_NOT_PERMITTED if refusal in _NOT_YOURS else FAILED
