"""Judges again what the clients of a run saw, from the history that a failed run leaves.

python -m tests.faults.again build/faults/seed-7/history.jsonl
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.faults.history import History
from tests.faults.judgement import client_violations


def main(paths: Sequence[str]) -> int:
    """Judge each history; return the exit code."""
    found = 0
    for path in paths:
        history = History.load(Path(path))
        for violation in client_violations(history):
            found += 1
            sys.stdout.write(f"\nVIOLATION {violation}\n")
        sys.stdout.write(f"{path}: {len(history.operations)} operations judged\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
