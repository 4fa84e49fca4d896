"""`strongroom store recover-quorum`: shows what is lost, has a person say so, and recovers."""

import sys
from argparse import Namespace
from typing import Final

from cluster.cli import admin_socket, answers
from cluster.cli.credentials import json_body
from cluster.cli.output import ExitCode, say, warn
from cluster.protocol.errors import InvalidRequest

_CONSENT: Final = "data may be lost"


def recover(args: Namespace) -> int:
    """Make a cluster of the local manager alone; return the exit code."""
    loss = admin_socket.call(args.admin_socket, "GET", "/admin/lost-quorum")
    _explain(loss)
    if not args.yes:
        _ask()
    body = json_body({"data_may_be_lost": True})
    for step in admin_socket.steps(args.admin_socket, "/admin/recover-quorum", body):
        say(step)
    say("this manager is the whole cluster now")
    warn(
        "join new managers with empty data directories; look at recent evictions, removed "
        "operators and rotations: what only the lost managers held did not happen"
    )
    return ExitCode.DONE


def _explain(loss: answers.Answer) -> None:
    voters, unreachable = answers.texts(loss, "voters"), answers.texts(loss, "unreachable")
    warn(f"{len(unreachable)} of {len(voters)} managers do not answer: {', '.join(unreachable)}")
    for address in voters:
        if address not in {answers.text(loss, "own"), *unreachable}:
            warn(f"{address} answers and is given up too; if its data go further, recover there")
    if answers.number(loss, "revision"):
        warn(f"this manager's data go to revision {answers.number(loss, 'revision')}")
    warn(
        "they are given up: what only they held is lost, and so are the last changes before this "
        "manager was killed, if it was; revocations too; if one of them is only down, locked or "
        "cut off, stop here and bring it back"
    )


def _ask() -> None:
    if not sys.stdin.isatty():
        raise InvalidRequest("this needs somebody's consent: run it on a terminal, or with --yes")
    sys.stderr.write(f'Type "{_CONSENT}" to go on: ')
    sys.stderr.flush()
    if sys.stdin.readline().strip() != _CONSENT:
        raise InvalidRequest("nothing was changed")
