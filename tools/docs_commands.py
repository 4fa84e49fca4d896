"""The reference of both command lines, written from their parsers.

Rendered from the parsers' actions, not from their help texts: argparse words those differently from
one Python to the next.
"""

import argparse
from collections.abc import Iterator
from importlib import import_module

from agent.cli.exit_codes import FAILED, NOT_FOUND_OR_NOT_PERMITTED, OK, TIMED_OUT, USAGE
from agent.cli.verbs import VERBS
from cluster.cli.arguments import Parser, add_connection
from cluster.cli.main import COMMANDS
from cluster.cli.output import ExitCode

EXIT_CODES = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "failed or refused",
    ExitCode.USAGE: "wrong usage",
    ExitCode.NOT_PERMITTED: "not permitted or not authenticated",
    ExitCode.STILL_WAITING: "still waiting when the time ran out; the change stays",
    ExitCode.UNAVAILABLE: "no manager can answer: unreachable, locked, no quorum",
    ExitCode.STOPPED: "the change was paused or taken back; see `strongroom rollout`",
    ExitCode.INTERRUPTED: "interrupted",
}
AGENT_EXIT_CODES = {
    OK: "done",
    FAILED: "failed or refused",
    USAGE: "wrong usage",
    NOT_FOUND_OR_NOT_PERMITTED: "not found or not permitted, which read alike",
    TIMED_OUT: "`exec`: the service's secrets were not mounted in time",
}

Tree = Iterator[tuple[argparse.ArgumentParser, str]]


def commands_page() -> str:
    """Return the reference of `strongroom` and `strongroom-agent`."""
    shared = Parser("shared", add_help=False)
    add_connection(shared)
    common = {action.option_strings[-1] for action in actions_of(shared)}
    lines = [
        "# Commands",
        "",
        "Written by `make docs` from the parsers; do not edit.",
        "",
        "Values, tokens and keys are read from files or standard input and never from arguments.",
        "`STRONGROOM_CONTEXT` names the context to use; contexts lie in",
        "`$XDG_CONFIG_HOME/strongroom`, by default `~/.config/strongroom`.",
        "",
        "Common flags:",
        "",
        *_table(actions_of(shared)),
        "",
        "Exit codes of `strongroom`:",
        "",
        *_codes(EXIT_CODES),
        "",
        "Exit codes of `strongroom-agent`; `exec` ends with its program's own, 128 and the number",
        "of the signal that ended it, or 125 to 127 where the program could not be started:",
        "",
        *_codes(AGENT_EXIT_CODES),
    ]
    for parser, summary in _parsers():
        lines += _sections(parser, summary, common)
    return "\n".join([*lines, ""])


def commands() -> list[str]:
    """Return every command, `strongroom secret create` for example."""
    return [leaf.prog for parser, summary in _parsers() for leaf, _help in leaves(parser, summary)]


def _parsers() -> Tree:
    yield from operator_parsers()
    yield from agent_parsers()


def operator_parsers() -> Tree:
    """Yield the parser of each noun of `strongroom`, with its summary."""
    for name, (module, summary) in COMMANDS.items():
        parser = Parser(f"strongroom {name}", description=summary.capitalize() + ".")
        import_module(module).add_commands(parser)
        yield parser, summary


def agent_parsers() -> Tree:
    """Yield the parser of each verb of `strongroom-agent`, with its summary."""
    for name, (module, summary) in VERBS.items():
        verb = argparse.ArgumentParser(prog=f"strongroom-agent {name}")
        import_module(module).add_arguments(verb)
        yield verb, summary


def _codes(codes: dict[ExitCode, str] | dict[int, str]) -> list[str]:
    rows = [f"| {int(code)} | {meaning} |" for code, meaning in codes.items()]
    return ["| code | meaning |", "|---|---|", *rows]


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the arguments of a parser, without its help flag."""
    actions = parser._actions  # noqa: SLF001  # argparse has no public way to list them
    return [action for action in actions if not isinstance(action, argparse._HelpAction)]  # noqa: SLF001  # as above


def _sections(parser: argparse.ArgumentParser, summary: str, common: set[str]) -> list[str]:
    lines: list[str] = []
    for leaf, help_text in leaves(parser, summary):
        actions = actions_of(leaf)
        flags = {flag for action in actions for flag in action.option_strings}
        shared = common if common <= flags else set()
        own = [a for a in actions if not shared.intersection(a.option_strings)]
        lines += ["", f"## {leaf.prog}", "", f"`{usage(leaf.prog, actions)}`", ""]
        lines += [f"{help_text[:1].upper()}{help_text[1:]}.", ""]
        if leaf.description and leaf.description.rstrip(".").lower() != help_text.lower():
            lines += [leaf.description, ""]
        if leaf.epilog:
            lines += [leaf.epilog.strip(), ""]
        if own:
            lines += [*_table(own), ""]
        if len(own) != len(actions):
            lines += ["Takes the common flags.", ""]
        lines.pop()
    return lines


def leaves(parser: argparse.ArgumentParser, summary: str) -> Tree:
    """Yield the commands below a parser that take arguments, each with its line of help."""
    for action in actions_of(parser):
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  # as above
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001  # as above
            for name, leaf in action.choices.items():
                yield from leaves(leaf, helps.get(name, ""))
            return
    yield parser, summary


def usage(prog: str, actions: list[argparse.Action]) -> str:
    """Return a command with what it takes, in a line."""
    flags = " [flags]" if any(action.option_strings for action in actions) else ""
    words = [positional(action) for action in actions if not action.option_strings]
    return " ".join([prog + flags, *words])


def positional(action: argparse.Action) -> str:
    """Return an argument as a usage line shows it."""
    name = _metavar(action)
    match action.nargs:
        case "?":
            return f"[{name}]"
        case "+":
            return f"{name} [{name} ...]"
        case "*" | argparse.REMAINDER:
            return f"[{name} ...]"
        case _:
            return name


def _metavar(action: argparse.Action) -> str:
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or action.dest.upper())


def named(action: argparse.Action) -> str:
    """Return a flag with its value; empty for an argument without a flag."""
    names = ", ".join(action.option_strings)
    return f"{names} {_metavar(action)}" if names and action.nargs != 0 else names


def _table(actions: list[argparse.Action]) -> list[str]:
    rows = []
    for action in actions:
        text = (action.help or "") % {"default": action.default, "prog": ""}
        required = "required; " if action.option_strings and action.required else ""
        cell = f"{required}{text}".replace("|", "\\|")
        rows.append(f"| `{named(action) or positional(action)}` | {cell} |")
    return ["| argument | meaning |", "|---|---|", *rows]
