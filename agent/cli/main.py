"""The entry point of `strongroom-agent`: from words to an exit code.

Owns the short way of `get NAME`, which an application waits for: without argparse, whose import
takes longer than the call. Everything else, and every error, is for `agent.cli.verbs`.
"""

import os
import sys
from collections.abc import Sequence

from agent.cli.workload import DEFAULT_SOCKET, print_value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 1 failed, 2 usage, or the verb's own."""
    words = list(sys.argv[1:] if argv is None else argv)
    match words:
        case ["get", name] if _is_no_flag(name):
            code = print_value(DEFAULT_SOCKET, name)
        case ["get", name, "--socket", socket] if _is_no_flag(name) and _is_no_flag(socket):
            code = print_value(socket, name)
        case _:
            from agent.cli.verbs import dispatch

            return dispatch(words)
    if argv is None:
        # All is written, and nothing is open: the interpreter has only itself to take down.
        os._exit(code)
    return code


def _is_no_flag(word: str) -> bool:
    return not word.startswith("-")


if __name__ == "__main__":
    sys.exit(main())
