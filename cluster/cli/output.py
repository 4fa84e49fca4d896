"""What an operator sees: tables, JSON, names only, errors, exit codes.

Everything a manager says passes `printable` before it reaches a terminal: a node that was broken
into must not be able to draw on the operator's screen. No value comes by here: no answer holds one.
"""

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """What the process says when it ends."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_PERMITTED = 3
    STILL_WAITING = 4
    UNAVAILABLE = 5
    STOPPED = 6
    """A change was paused, or taken back: it is not on every node."""
    INTERRUPTED = 130


Column = tuple[str, str]
"""A heading, and the key of the answer it shows."""


def complain(message: str, code: ExitCode = ExitCode.FAILED) -> ExitCode:
    """Print an error line and return its exit code."""
    clear_progress()
    sys.stderr.write(f"strongroom: error: {printable(message)}\n")
    return code


def warn(message: str) -> None:
    """Print a line on standard error."""
    clear_progress()
    sys.stderr.write(f"strongroom: {printable(message)}\n")


def say(line: str) -> None:
    """Print a line of the result, at once: what is waited for shows in a log or a pipe too."""
    clear_progress()
    sys.stdout.write(f"{printable(line)}\n")
    sys.stdout.flush()


def show_progress(*lines: str) -> None:
    """Draw the progress, on a terminal only; no line is wider than the screen."""
    if sys.stderr.isatty():
        drawn = "\n".join(printable(line) for line in lines)
        # Back to where it began: whatever is printed next removes it all, without being told.
        up = f"\x1b[{len(lines) - 1}A\r" if len(lines) > 1 else ""
        sys.stderr.write(f"\r\x1b[J{drawn}{up}")
        sys.stderr.flush()


def clear_progress() -> None:
    """Remove the progress."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[J")
        sys.stderr.flush()


def printable(text: str) -> str:
    """Return `text` with everything that could move a cursor or hide text made visible."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def print_json(content: object) -> None:
    """Print `content` as JSON; only ASCII leaves, so it is safe on a terminal."""
    import json

    sys.stdout.write(json.dumps(content, indent=2) + "\n")


def print_rows(
    args: Namespace,
    rows: Sequence[Mapping[str, object]],
    columns: Sequence[Column],
    key: str = "name",
) -> None:
    """Print a list the way it was asked for; `key` is what `-q` prints of each row."""
    if args.quiet:
        for row in rows:
            say(cell(row.get(key)))
    elif args.format == "json":
        print_json(rows)
    else:
        print_table(
            [heading for heading, _ in columns],
            [[cell(row.get(source)) for _, source in columns] for row in rows],
        )


def print_object(args: Namespace, content: Mapping[str, object], key: str = "name") -> None:
    """Print one object: as JSON, or each field on a line and its lists as tables."""
    if args.quiet:
        say(cell(content.get(key)))
    elif args.format == "json":
        print_json(content)
    else:
        _print_fields(content)


def print_result(args: Namespace, content: Mapping[str, object], line: str, key: str) -> None:
    """Print what a change came to: one line, the name or id with `-q`, or the answer as JSON."""
    if args.format == "json":
        print_json(content)
    else:
        say(cell(content.get(key)) if args.quiet else line)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "") -> None:
    """Print aligned columns."""
    lines = [headings, *map(_printable_row, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = indent + "  ".join(f"{{:<{width}}}" for width in widths)
    sys.stdout.write("".join(f"{padded.format(*line).rstrip()}\n" for line in lines))


def _printable_row(row: Sequence[str]) -> Sequence[str]:
    if "".join(row).isprintable():
        return row
    return [printable(text) for text in row]


def cell(value: object) -> str:
    """Return a field as the text that stands in a table."""
    if isinstance(value, str):
        # Most fields of a long table: the patterns below take longer than all else about it.
        return value or "-"
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case dict() | list() | tuple() if not value:
            return "-"
        case dict():
            return ",".join(f"{key}={cell(item)}" for key, item in value.items())
        case list() | tuple():
            return ",".join(cell(item) for item in value)
        case _:
            return str(value)


def _print_fields(content: Mapping[str, object], indent: str = "") -> None:
    for key, value in content.items():
        heading = f"{indent}{printable(key.replace('_', ' '))}:"
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            sys.stdout.write(f"{heading}\n")
            columns = list(dict.fromkeys(name for row in value for name in row))
            print_table(
                [name.replace("_", " ").upper() for name in columns],
                [[cell(row.get(name)) for name in columns] for row in value],
                indent + "  ",
            )
        elif isinstance(value, dict) and len(value) > 1:
            sys.stdout.write(f"{heading}\n")
            _print_fields(value, indent + "  ")
        else:
            sys.stdout.write(f"{heading} {printable(cell(value))}\n")
