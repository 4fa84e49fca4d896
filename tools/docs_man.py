"""The manual pages of both programs, written from their parsers: a page for each noun.

Source: man-pages(7), groff_man(7).
"""

import argparse
from collections.abc import Callable, Iterator
from importlib import import_module

from cluster.cli.arguments import Parser
from cluster.cli.main import COMMANDS
from tools.docs_commands import (
    AGENT_EXIT_CODES,
    EXIT_CODES,
    actions_of,
    agent_parsers,
    leaves,
    named,
    positional,
    usage,
)

DIRECTORY = "packaging/man"
SUMMARY = "hands each secret only to the node and the service that need it"
AGENT_SUMMARY = "delivers a cluster's secrets to the services on this node"


def pages() -> dict[str, Callable[[], str]]:
    """Return every page's path in the repository, and what renders it."""
    found: dict[str, Callable[[], str]] = {
        f"{DIRECTORY}/strongroom.1": overview,
        f"{DIRECTORY}/strongroom-agent.1": agent_page,
    }
    for name in COMMANDS:
        found[f"{DIRECTORY}/strongroom-{name}.1"] = lambda name=name: noun_page(name)  # type: ignore[misc]  # bound now, not at the call
    return found


def overview() -> str:
    """Return strongroom(1)."""
    lines = [*_head("strongroom", SUMMARY), ".SH SYNOPSIS", ".B strongroom", "COMMAND [ARGUMENTS]"]
    lines += [".SH DESCRIPTION", _text("Each command has a manual page of its own.")]
    for name, (_module, summary) in COMMANDS.items():
        lines += [".TP", f".BR strongroom\\-{_text(name)} (1)", _text(_sentence(summary))]
    lines += [
        ".SH FILES",
        ".TP",
        ".I $XDG_CONFIG_HOME/strongroom",
        _text("Contexts: which clusters these commands talk to, and as whom."),
        ".SH ENVIRONMENT",
        ".TP",
        ".B STRONGROOM_CONTEXT",
        "The context to use.",
    ]
    codes = {int(code): text for code, text in EXIT_CODES.items()}
    return _page([*lines, *_codes(codes), ".SH SEE ALSO", ".BR strongroom\\-agent (1)"])


def noun_page(name: str) -> str:
    """Return the page of one noun, with each of its verbs."""
    module, summary = COMMANDS[name]
    parser = Parser(f"strongroom {name}")
    import_module(module).add_commands(parser)
    lines = [*_head(f"strongroom-{name}", summary), *_commands(list(leaves(parser, summary)))]
    return _page([*lines, ".SH SEE ALSO", ".BR strongroom (1)"])


def agent_page() -> str:
    """Return strongroom-agent(1)."""
    lines = [*_head("strongroom-agent", AGENT_SUMMARY), *_commands(list(agent_parsers()))]
    return _page([*lines, *_codes(AGENT_EXIT_CODES), ".SH SEE ALSO", ".BR strongroom (1)"])


def _head(name: str, summary: str) -> list[str]:
    return [
        '.\\" Written by `make docs` from the parsers; do not edit.',
        f'.TH "{name.upper()}" "1" "" "Strongroom" "Strongroom manual"',
        ".ad l",
        ".SH NAME",
        f"{_text(name)} \\- {_text(summary)}",
    ]


def _commands(found: list[tuple[argparse.ArgumentParser, str]]) -> Iterator[str]:
    yield ".SH SYNOPSIS"
    for parser, _help in found:
        yield f".B {_text(usage(parser.prog, actions_of(parser)))}"
        yield ".br"
    yield ".SH DESCRIPTION"
    for parser, help_text in found:
        yield f'.SS "{_text(parser.prog)}"'
        yield _text(_sentence(help_text))
        for more in (parser.description, parser.epilog):
            if more and more.rstrip(".").lower() != help_text.lower():
                yield ".PP"
                yield from (_text(line) for line in more.strip().splitlines() if line.strip())
        for action in actions_of(parser):
            yield ".TP"
            yield f".B {_text(named(action) or positional(action))}"
            yield _text((action.help or "") % {"default": action.default, "prog": ""}) or "\\&"


def _codes(codes: dict[int, str]) -> Iterator[str]:
    yield ".SH EXIT STATUS"
    for code, meaning in codes.items():
        yield from (".TP", f".B {int(code)}", _text(meaning.replace("`", "")))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _text(text: str) -> str:
    """Return text that roff takes as it is: no escape, no request, hyphens that can be copied."""
    escaped = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _page(lines: list[str]) -> str:
    return "\n".join([*lines, ""])
