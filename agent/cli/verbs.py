"""The verbs of `strongroom-agent` and their flags.

Imports the module of the one verb that runs, and nothing else: `get` starts with an application.
A verb's module offers `add_arguments(parser)` and `run(arguments) -> exit code`. `get`, `ls`,
`exec` and `doctor` need the standard library alone, so they run from a zipapp under any Python.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from agent.cli.exit_codes import FAILED, fail

VERBS = {
    "run": ("agent.cli.run", "run the agent"),
    "join": ("agent.cli.join", "join this node to a cluster"),
    "get": ("agent.cli.get", "print one of this service's secrets"),
    "ls": ("agent.cli.ls", "list this service's secrets"),
    "exec": ("agent.cli.exec", "run a program as a service, isolated"),
    "spiffe": ("agent.cli.spiffe", "serve the SPIFFE Workload API for one service"),
    "doctor": ("agent.cli.doctor", "check what this node can protect"),
}
_DESCRIPTION = "Delivers a cluster's secrets to the services on this node, in memory only."


class Verb(Protocol):
    """What the module of a verb offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the verb's flags and arguments."""
        ...

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it, and return the exit code."""
        ...


def dispatch(words: Sequence[str]) -> int:
    """Run what the words ask for and return the exit code: 0, 1 failed, or the verb's own.

    Raises SystemExit with 2 for wrong usage.
    """
    chosen = words[0] if words and words[0] in VERBS else None
    parser = argparse.ArgumentParser(
        prog="strongroom-agent", description=_DESCRIPTION, allow_abbrev=False
    )
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    verb: Verb | None = None
    for name, (module, summary) in VERBS.items():
        subparser = verbs.add_parser(
            name, help=summary, description=summary.capitalize() + ".", allow_abbrev=False
        )
        if name == chosen:
            verb = _load(module)
            verb.add_arguments(subparser)
    try:
        arguments = parser.parse_args(words)
    except SystemExit as ended:
        if not ended.code:  # the help: it may be on its way still
            from agent.cli.printing import tell

            ended.code = tell("")
        raise
    if verb is None:
        return FAILED
    return verb.run(arguments)


def _load(module: str) -> Verb:
    try:
        return cast("Verb", importlib.import_module(module))
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        sys.exit(fail("this build has no such command; install the package `strongroom`"))
