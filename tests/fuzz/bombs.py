"""Gives every decoder what announces more than it has, in a process with little memory to spare.

Prints each target that came through. An error that is not declared, MemoryError among them, ends
it. What root or an operator writes himself may be as large as he likes; it is tried with less.
"""

import resource
import sys
from pathlib import Path
from typing import Final

from tests.fuzz import asked, networked, stored

SPARE_BYTES: Final = 192 * 1024 * 1024
OWN_BYTES: Final = 64 * 1024
BOMBS: Final = {
    "array": b"\xdd\xff\xff\xff\xff",
    "map": b"\xdf\xff\xff\xff\xff",
    "bytes": b"\xc6\xff\xff\xff\xff",
    "text": b"\xdb\xff\xff\xff\xff",
    "nested arrays": b"\x91" * 1_000_000,
    "arrays announced in arrays": b"\xdd\x00\xff\xff\xff" * 200_000,
    "DER length": b"\x30\x84\xff\xff\xff\xff",
    "nested DER": b"\x30\x80" * 500_000,
    "nested JSON": b"[" * 2_000_000,
    "JSON objects": b'{"a":' * 400_000,
    "nested TOML": b"a = " + b"[" * 1_000_000,
    "TOML number": b"a = " + b"9" * 1_000_000,
    "frame": b"SRAUDT\x00\x01\x7f\xff\xff\xff",
    "chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffff\r\n",
    "head": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 400_000,
    "zeros": bytes(4 * 1024 * 1024),
}


def main() -> None:
    """Try everything on everything."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, used + SPARE_BYTES))
    try:
        bytearray(2 * SPARE_BYTES)
    except MemoryError:
        sys.stdout.write("limited\n")
    for target in (*networked.TARGETS, *stored.TARGETS, *asked.TARGETS):
        for bomb in BOMBS.values():
            target.check(bomb[:OWN_BYTES] if target.may_echo else bomb)
        sys.stdout.write(f"{target.name}\n")


if __name__ == "__main__":
    main()
