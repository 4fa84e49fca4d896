"""Red: a service that only looks whether its secret is there, and says when it changed.

    red.py FILE

Runs with the system's Python and nothing else. It prints sizes, never values.
"""

import sys
import time
from pathlib import Path

PERIOD_S = 0.2


def main(file: Path) -> None:
    """Look until ended."""
    before = None
    while True:
        # The whole set of files is swapped by this one link, so its target names the set.
        current = (file.parent / "..data").readlink()
        if current != before:
            sys.stdout.write(f"red: {file.name} has {len(file.read_bytes())} bytes\n")
            sys.stdout.flush()
            before = current
        time.sleep(PERIOD_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
