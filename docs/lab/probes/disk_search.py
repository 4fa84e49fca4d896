"""Searches files for secret values: as they are, in hexadecimal and in base64 at every alignment.

    disk_search.py --planted FILE --value FILE [--value FILE ...] DIRECTORY ...

A search that finds nothing proves nothing until it finds what is there: the planted value must be
found in all three forms. Exits 0 if exactly that was found. Prints names of files, never a value.
"""

import argparse
import base64
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

CHUNK = 8 * 1024 * 1024
FORMS = ("plain", "hex", "base64")
Found = dict[tuple[Path, str], set[Path]]
"""Whose value, in which form -> the files that hold it."""


def needles(value: bytes) -> dict[str, list[bytes]]:
    """Return what to look for, by form."""
    plain = value.strip()
    return {
        "plain": [plain],
        "hex": [plain.hex().encode(), plain.hex().upper().encode()],
        "base64": [
            _certain(encode(bytes(offset) + plain), offset)
            for encode in (base64.b64encode, base64.urlsafe_b64encode)
            for offset in range(3)
        ],
    }


def _certain(text: bytes, offset: int) -> bytes:
    """Return the characters that do not depend on what stands before and after the value."""
    return text.rstrip(b"=")[(0, 2, 3)[offset] : -1]


def search(directories: Sequence[Path], wanted: Mapping[Path, bytes]) -> tuple[Found, int]:
    """Return what was found, and how many bytes were searched."""
    sought = [
        ((source, form), needle)
        for source, value in wanted.items()
        for form, forms in needles(value).items()
        for needle in forms
    ]
    overlap = max(len(needle) for _key, needle in sought)
    found: Found = {}
    total = 0
    for file in _files(directories):
        for chunk in _chunks(file, overlap):
            total += len(chunk)
            for key, needle in sought:
                if needle in chunk:
                    found.setdefault(key, set()).add(file)
    return found, total


def _files(directories: Sequence[Path]) -> Iterator[Path]:
    for directory in directories:
        for parent, _directories, names in os.walk(directory):
            for name in names:
                path = Path(parent) / name
                if path.is_file() and not path.is_symlink():
                    yield path


def _chunks(file: Path, overlap: int) -> Iterator[bytes]:
    rest = b""
    # A file that its owner removes meanwhile is no longer on the disk either.
    with suppress(FileNotFoundError), file.open("rb") as stream:
        while content := stream.read(CHUNK):
            # Space that was reserved and never written is all zeros, and there is a lot of it.
            if content.strip(b"\0") or rest:
                yield rest + content
            rest = content[-overlap:] if content.strip(b"\0") else b""


def report(found: Found, planted: Path, values: Sequence[Path], total: int) -> bool:
    """Print what was found; return whether it is the planted value and nothing else."""
    sys.stdout.write(f"{total / 1e6:.0f} MB searched\n")
    good = True
    for source in (planted, *values):
        for form in FORMS:
            files = sorted(str(file) for file in found.get((source, form), ()))
            good &= bool(files) is (source == planted)
            places = ", ".join(files) or "nowhere"
            sys.stdout.write(f"{source.name:<24} {form:<7} {places}\n")
    found_planted = any(source == planted for source, _form in found)
    if good:
        sys.stdout.write("the planted value is on disk, in all forms, and nothing else\n")
    elif not found_planted:
        sys.stdout.write("the planted value was not found: this search proves nothing\n")
    return good


def main() -> int:
    """Search, and compare with what must be found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--planted", type=Path, required=True)
    parser.add_argument("--value", type=Path, action="append", required=True)
    parser.add_argument("directory", type=Path, nargs="+")
    arguments = parser.parse_args()
    wanted = {file: file.read_bytes() for file in (arguments.planted, *arguments.value)}
    found, total = search(arguments.directory, wanted)
    return 0 if report(found, arguments.planted, arguments.value, total) else 1


if __name__ == "__main__":
    sys.exit(main())
