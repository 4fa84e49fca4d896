"""`strongroom audit checkpoint`: a manager's signed statement of where the audit's chains stand.

Owns the file and the check of its signature on this machine, which believes the authorities of the
context alone and no manager's word; whether the store still holds what it states is the manager's
business.
"""

import json
import os
import sys
from argparse import Namespace
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from cluster.cli import answers
from cluster.cli.arguments import Parser, Verbs, add_connection
from cluster.cli.connection import Connection, connect
from cluster.cli.context_files import Context, ContextFiles
from cluster.cli.output import ExitCode, cell, print_json, say, warn
from cluster.cli.settings import read_settings
from cluster.protocol.errors import AlreadyExists, InvalidRequest, NotFound

TIMEOUT_S: Final = 300.0
"""Verifying opens every link since the last checkpoint, 100,000 of them at most."""
SUFFIX: Final = ".checkpoint"
_MOST_BYTES: Final = 256 * 1024


def add_verb(verbs: Verbs) -> None:
    """Add `audit checkpoint`."""
    verb = verbs.add_parser(
        "checkpoint",
        help="have a manager sign where every chain stands, to be kept outside the cluster",
        description="Recomputes every chain first. Compare the cluster with the file later: "
        "`strongroom audit verify --checkpoint FILE`.",
    )
    verb.add_argument(
        "--output", metavar="FILE", default="-", help="a new file; default: standard output"
    )
    add_connection(verb)
    verb.set_defaults(run=_checkpoint)


def add_flags(verify: Parser) -> None:
    """Add the flags of `audit verify` that take such a file."""
    verify.add_argument(
        "--checkpoint", metavar="FILE", help="find what is gone since a signed checkpoint"
    )
    verify.add_argument(
        "--offline", action="store_true", help="check the signature only, and ask no manager"
    )


def load_proven(args: Namespace) -> bytes:
    """Return the file that `--checkpoint` names, once its signature is found to be of a manager of
    the context's cluster. Raises what `proven` raises."""
    file = _load(args.checkpoint)
    _prove(ContextFiles(read_settings()).chosen(args.context), file)
    return file


def show(args: Namespace, file: bytes | None) -> int:
    """Print what a proven file states, for `--offline`."""
    if file is None:
        raise InvalidRequest("--offline checks a signed checkpoint; name one with --checkpoint")
    payload = answers.parse(b64decode(answers.text(answers.parse(file), "payload")))
    if args.format == "json":
        print_json(payload)
    elif args.quiet:
        say(cell(payload.get("revision")))
    else:
        say(f"signed by    manager {cell(payload.get('manager_id'))}")
        say(f"cluster      {cell(payload.get('cluster_id'))}")
        say(f"revision     {cell(payload.get('revision'))}")
        for head in answers.rows(payload, "chains"):
            say(f"chain        {cell(head.get('chain'))} up to link {cell(head.get('last_link'))}")
    return ExitCode.DONE


def compared(verdict: answers.Answer) -> str:
    """Return the words on what a verdict was compared with."""
    found = answers.nested(verdict, "compared")
    words = (
        f"with {cell(found.get('chains'))} chains as manager {cell(found.get('manager_id'))} "
        f"stated them at {cell(found.get('at'))}"
    )
    forgotten = found.get("forgotten")
    count = len(forgotten) if isinstance(forgotten, list) else 0
    return f"{words}; {count} ended and were trimmed since" if count else words


def write(connection: Connection, name: str) -> None:
    """Write a fresh signed checkpoint to a new file; - is standard output."""
    answer = connection.get("/v1/audit/checkpoint", timeout_s=TIMEOUT_S)
    content = json.dumps(answer) + "\n"
    _prove(connection.context, content.encode())
    with new_file(name) as file:
        file.write(content)
    if name != "-":
        warn(f"signed checkpoint written to {name}")


@contextmanager
def new_file(name: str) -> Iterator[TextIO]:
    """Give a new file of mode 0600 that is whole and durable under its name, or not there."""
    if name == "-":
        yield sys.stdout
        return
    path = Path(name)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise AlreadyExists(f"{name} exists; name a new file") from None
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink()
        raise


def _checkpoint(args: Namespace) -> int:
    write(connect(args), args.output)
    return ExitCode.DONE


def _load(name: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            return file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no file {name}") from None


def _prove(context: Context, file: bytes) -> None:
    # `cryptography` takes its time to load, and most of the audit's commands need none of it.
    from cluster.pki.audit_statement import proven

    proven(file, [b64decode(der) for der in context.control], context.trust_domain)
