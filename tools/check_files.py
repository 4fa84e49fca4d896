"""File hygiene: what no file of this repository may hold, and how text files end.

Run on the files named, or on every file git knows or would add. Used by pre-commit and by
tests/architecture; needs nothing but the standard library. Prints one line a problem and exits 1.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_MODULE_LINES = 400
"""Lines of a module of the two packages: beyond it nobody reads a file whole."""

LONG_MODULES = {
    "cluster/store/records.py": 650,  # one declaration a record kind, and nothing else
}

GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$")
BINARY_SUFFIXES = frozenset({".bin", ".png", ".db"})
CHECKSUMS_AND_LICENCES = re.compile(r"(\.lock|^LICENSE)$")

# The patterns are split so that this file does not match itself.
FORBIDDEN: tuple[tuple[str, re.Pattern[str], re.Pattern[str] | None], ...] = (
    (
        "a private key",
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE " + r"KEY-----\s*\n[A-Za-z0-9+/=]{16}"),
        re.compile(r"^tests/vectors/"),
    ),
    (
        "a join token",
        re.compile(r"SRTKN-1-[a-z0-9]{16,}" + r"-[a-z0-9]{16,}-[a-z0-9]{16,}"),
        re.compile(r"^tests/vectors/"),
    ),
    (
        "a package registry's host",
        re.compile(
            r"pypi\." + r"org|python" + r"hosted\.org|registry-1\." + r"docker|gh" + r"cr\.io"
        ),
        None,
    ),
    (
        "a path of somebody's machine",
        re.compile(r"(?<![\w.])/(?:work|home/\w+|root/\.\w+|Users)/" + r"(?=\w)"),
        None,
    ),
    ("unfinished work", re.compile(r"(?:#|--|\*)\s*(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"), None),
    ("a merge conflict", re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE), None),
)


def known_files(root: Path) -> list[Path]:
    """Return every file that git tracks or would add, relative to `root`."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [Path(name) for name in listing.split("\0") if name and (root / name).is_file()]


def problems(root: Path, path: Path) -> Iterator[str]:
    """Yield what is wrong with one file."""
    if path.suffix in BINARY_SUFFIXES:
        return
    try:
        text = (root / path).read_bytes().decode()
    except UnicodeDecodeError:
        yield "not UTF-8; name binary files .bin"
        return
    for what, pattern, exempt in FORBIDDEN:
        if exempt is not None and exempt.search(path.as_posix()):
            continue
        for match in pattern.finditer(text):
            yield f"line {text.count(chr(10), 0, match.start()) + 1}: {what}"
    if not CHECKSUMS_AND_LICENCES.search(path.as_posix()) and not GENERATED.search(path.name):
        yield from _layout_problems(path, text)


def _layout_problems(path: Path, text: str) -> Iterator[str]:
    if "\r" in text:
        yield "has carriage returns"
    if text and not text.endswith("\n"):
        yield "does not end in a newline"
    for number, line in enumerate(text.splitlines(), 1):
        if line != line.rstrip():
            yield f"line {number}: trailing space"
    lines = text.count("\n")
    is_module = path.suffix == ".py" and path.parts[0] in {"cluster", "agent"}
    limit = LONG_MODULES.get(path.as_posix(), MAX_MODULE_LINES)
    if is_module and lines > limit:
        yield f"{lines} lines; split it (at most {limit})"


def main(arguments: list[str]) -> int:
    """Print the problems of the files named, or of all."""
    root = Path.cwd()
    count = 0
    for path in [Path(name) for name in arguments] or known_files(root):
        for problem in problems(root, path):
            print(f"{path}: {problem}")
            count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
