"""Writes an unlock key as some other cluster would have: whole, well-formed, and not this one's.

other_unlock_key.py FILE
"""

import sys
from pathlib import Path

from cluster.seal.unlock import UnlockKey
from cluster.system import SystemEntropy


def main(file: str) -> None:
    """Write the key; it opens nothing."""
    path = Path(file)
    path.touch(0o600)
    path.write_bytes(UnlockKey.generate(SystemEntropy()).text().reveal())


if __name__ == "__main__":
    main(sys.argv[1])
