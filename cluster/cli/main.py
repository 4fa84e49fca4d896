"""The operator's command: dispatches on the first word and turns every failure into an exit code.

Owns the list of commands and the process's boundary; what a command does lives in the module named
in `COMMANDS`, imported only when it is asked for, because a command line is judged by its start.
"""

import resource
import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module
from typing import Final, Protocol, cast

from cluster.cli.arguments import Parser
from cluster.cli.output import ExitCode, complain

COMMANDS: Final = {
    "init": ("cluster.cli.init", "start a new cluster on this machine's manager"),
    "join": ("cluster.cli.join", "add this machine's manager to a cluster"),
    "unlock": ("cluster.cli.unlock", "unlock this machine's manager after a start"),
    "status": ("cluster.cli.status", "managers, leader, agents, and what is unhealthy or weak"),
    "doctor": ("cluster.cli.doctor", "what this machine's manager can protect, check by check"),
    "secret": ("cluster.cli.secret", "create, rotate, list and remove secrets"),
    "config": ("cluster.cli.config", "files for services that are no secrets: create, list, read"),
    "service": ("cluster.cli.service", "say which service gets which secrets, and where"),
    "rollout": ("cluster.cli.rollout", "how changes go out: list, wait, pause, resume, take back"),
    "node": ("cluster.cli.node", "nodes: list, label, drain, remove"),
    "events": ("cluster.cli.events", "what happened to the cluster's objects, and who did it"),
    "token": ("cluster.cli.token", "join tokens for nodes and managers"),
    "operator": ("cluster.cli.operator", "who may run these commands; enrol and renew yourself"),
    "context": ("cluster.cli.context", "which cluster these commands talk to"),
    "key": ("cluster.cli.key", "rotate the key that seals the store"),
    "audit": ("cluster.cli.audit", "who asked for what: follow, search, verify, export"),
    "store": ("cluster.cli.store", "the storage engine of this machine's manager"),
    "hook": ("cluster.cli.hook", "programs that change credentials at third parties"),
    "manager": ("cluster.cli.manager", "run the manager; list managers"),
}
"""Command: the module that holds it, and its line in the help."""

_EXAMPLES = """\
examples:
  strongroom secret create db-password password.txt
  strongroom service create web --secret db-password --constraint node.labels.zone==a
  strongroom secret rotate db-password new-password.txt
  strongroom service ps web

`strongroom COMMAND --help` shows more.

exit codes: 0 done, 1 failed or refused, 2 wrong usage, 3 not permitted or not authenticated,
4 still waiting when the time ran out (the change stays), 5 no manager can answer (unreachable,
locked, no quorum), 6 the change was paused or rolled back (see `strongroom rollout`)
"""


class _CommandModule(Protocol):
    """What a command's module offers."""

    def add_commands(self, parser: Parser) -> None:
        """Add the command's flags and verbs; each verb sets `run`."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if argv is None:
        # This process is ours alone: a value that passes through it must not end in a core dump.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        return complain("interrupted", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nobody is left to tell, now or at exit.
        sys.stdout = None
        return ExitCode.FAILED
    except Exception as error:  # noqa: BLE001  # the process's boundary: no traceback for an operator
        from cluster.cli.failures import explain

        return explain(error)


def _dispatch(words: list[str]) -> int:
    given = Namespace(context=None)
    if not words or words[0] not in COMMANDS:
        words = _parse_front(words, given)
    module_name, help_line = COMMANDS[words[0]]
    parser = Parser(prog=f"strongroom {words[0]}", description=_sentence(help_line))
    # A flag before the verb may have a value: which word is the verb is for argparse to say then.
    parser.asked = words[1] if len(words) > 1 and not words[1].startswith("-") else None
    cast("_CommandModule", import_module(module_name)).add_commands(parser)
    args = parser.parse_strictly(words[1:], given)
    code: int = args.run(args)
    sys.stdout.flush()
    return code


def _parse_front(words: list[str], given: Namespace) -> list[str]:
    """Return the command and its words after the flags that may stand before it, or exit."""
    parser = Parser(
        prog="strongroom",
        description="Hands each secret only to the node and the service that need it.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("--context", metavar="NAME", help="the cluster to talk to")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name, (_module, help_line) in COMMANDS.items():
        commands.add_parser(name, help=help_line, add_help=False)
    args, rest = parser.parse_known_args(words, given)
    if args.version:
        from importlib.metadata import version

        sys.stdout.write(f"strongroom {version('strongroom')}\n")
        raise SystemExit(ExitCode.DONE)
    if args.command is None:
        parser.print_help(sys.stderr)
        raise SystemExit(ExitCode.USAGE)
    return [args.command, *rest]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
