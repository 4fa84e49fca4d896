"""`strongroom-agent ls`: what this service may get."""

import argparse
import json

from agent.cli.printing import tell
from agent.cli.socket_flag import add_socket_argument
from agent.cli.workload import CallFailed, ask


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `ls`."""
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("-q", "--quiet", action="store_true", help="names only")
    add_socket_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print names, targets and versions; never a value."""
    try:
        rows = json.loads(ask(arguments.socket, "ls"))
    except CallFailed as failure:
        return failure.exit_code
    if arguments.format == "json":
        return tell(json.dumps(rows) + "\n")
    if arguments.quiet:
        return tell("\n".join(str(row["name"]) for row in rows) + "\n")
    return tell(_table(rows) + "\n")


def _table(rows: list[dict[str, object]]) -> str:
    columns = list(dict.fromkeys(["name", *(key for row in rows for key in row)]))
    lines = [[column.upper() for column in columns]]
    lines += [[str(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
