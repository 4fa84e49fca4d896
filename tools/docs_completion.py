"""Completion for bash and zsh, written from the parsers: commands, flags, and the choices of flags.

Where nothing of ours fits, the shell completes file names: values, tokens and keys come from files.
Source: bash(1) "Programmable Completion", zshcompsys(1).
"""

import argparse
from collections.abc import Iterator

from tools.docs_commands import actions_of, agent_parsers, operator_parsers

BASH = "packaging/completion/strongroom.bash"
ZSH = "packaging/completion/_strongroom"

_HEAD = "# Completion for strongroom and strongroom-agent. Written by `make docs`; do not edit."
_BASH_TAIL = """
_strongroom() {
    local path=${COMP_WORDS[0]##*/} previous=${COMP_WORDS[COMP_CWORD-1]} word
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ -n ${_strongroom_words["$path $word"]+known} ]] && path+=" $word"
    done
    if [[ -n ${_strongroom_choices["$path $previous"]+known} ]]; then
        word=${_strongroom_choices["$path $previous"]}
    else
        word=${_strongroom_words[$path]}
    fi
    COMPREPLY=($(compgen -W "$word" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _strongroom strongroom strongroom-agent
"""
_ZSH_TAIL = """
local path_=${words[1]:t} word
for word in ${words[2,CURRENT-1]}; do
    (( ${+_strongroom_words[$path_ $word]} )) && path_+=" $word"
done
if (( ${+_strongroom_choices[$path_ ${words[CURRENT-1]}]} )); then
    compadd -- ${=_strongroom_choices[$path_ ${words[CURRENT-1]}]}
else
    compadd -- ${=_strongroom_words[$path_]} || _files
fi
"""


def bash() -> str:
    """Return the completion for bash 4.2 or later."""
    words, choices = _tables()
    lines = [_HEAD, *_table("declare -gA", words, choices, '["{}"]="{}"')]
    return "\n".join(lines) + _BASH_TAIL


def zsh() -> str:
    """Return the completion for zsh."""
    words, choices = _tables()
    lines = ["#compdef strongroom strongroom-agent", _HEAD]
    lines += _table("local -A", words, choices, '"{}" "{}"')
    return "\n".join(lines) + _ZSH_TAIL


def _table(
    declare: str, words: dict[str, str], choices: dict[str, str], pair: str
) -> Iterator[str]:
    for name, table in (("words", words), ("choices", choices)):
        yield f"{declare} _strongroom_{name}=("
        yield from (f"    {pair.format(path, found)}" for path, found in table.items())
        yield ")"


def _tables() -> tuple[dict[str, str], dict[str, str]]:
    """Return what may follow each command, and each flag that has choices."""
    words: dict[str, list[str]] = {"strongroom": ["--context", "--version"], "strongroom-agent": []}
    choices: dict[str, str] = {}
    for parser, _summary in (*operator_parsers(), *agent_parsers()):
        words[parser.prog.partition(" ")[0]].append(parser.prog.split()[1])
        _take(parser, parser.prog, words, choices)
    return {path: " ".join(found) for path, found in words.items()}, choices


def _take(
    parser: argparse.ArgumentParser, path: str, words: dict[str, list[str]], choices: dict[str, str]
) -> None:
    words[path] = []
    for action in actions_of(parser):
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  # argparse has no public way to list them
            for name, verb in action.choices.items():
                words[path].append(name)
                _take(verb, f"{path} {name}", words, choices)
            continue
        words[path] += [flag for flag in action.option_strings if flag.startswith("--")]
        for flag in action.option_strings:
            if action.choices is not None:
                choices[f"{path} {flag}"] = " ".join(map(str, action.choices))
