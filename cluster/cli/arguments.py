"""The argument parser of every command, the flags that commands share, and how their text is read.

An argument that should not be there is never repeated in an error: it may be a value that was typed
where a file belongs.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from cluster.cli.output import ExitCode, complain

DEFAULT_ADMIN_SOCKET = "/run/strongroom/admin.sock"
DEFAULT_TIMEOUT_S = 30.0

_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_NUMBER = re.compile(r"[0-9]{1,10}")
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d|)")


class _Unmeasured(argparse.RawDescriptionHelpFormatter):
    """Checks flags as they are added; argparse makes one for each, and each asks the terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=80)


class Parser(argparse.ArgumentParser):
    """Argparse with this command's error lines and without abbreviated flags."""

    def __init__(
        self,
        prog: str | None = None,
        *,
        description: str | None = None,
        epilog: str | None = None,
        add_help: bool = True,
    ) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            add_help=add_help,
            allow_abbrev=False,
            formatter_class=_Unmeasured,
        )
        self.asked: str | None = None
        """The verb that the words name, where they are known: no other needs its flags."""

    def format_help(self) -> str:
        """Return the help, as wide as the terminal."""
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        return super().format_help()

    def format_usage(self) -> str:
        """Return the usage, as wide as the terminal."""
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        return super().format_usage()

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and where help is, and exit with the usage code."""
        raise SystemExit(complain(f"{message}; see `{self.prog} --help`", ExitCode.USAGE))

    def parse_strictly(self, words: Sequence[str], given: argparse.Namespace) -> argparse.Namespace:
        """Return the parsed arguments, or exit when some are left over."""
        args, extra = self.parse_known_args(words, given)
        flags = [word.partition("=")[0] for word in extra if word.startswith("-")]
        if flags:
            self.error(f"there is no flag {flags[0]} here")
        if extra:
            self.error("there are too many arguments")
        return args


class _Said(argparse.Action):
    """Stores a flag's value, and in `FLAG_said` that it was given."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        _option: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, values)
        setattr(namespace, f"{self.dest}_said", True)


class _Refused(argparse.Action):
    """Ends with the reason in `const`: a flag that people know from elsewhere."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        _namespace: argparse.Namespace,
        _values: object,
        _option: str | None = None,
    ) -> None:
        parser.error(str(self.const))


class Verbs:
    """Where a noun's verbs are added. Those that were not asked for stay names without flags."""

    def __init__(self, parser: Parser) -> None:
        # With `prog` argparse need not work out the usage, which takes longer than all the rest.
        self._added = parser.add_subparsers(
            title="commands", metavar="COMMAND", dest="verb", required=True, prog=parser.prog
        )
        self._asked = parser.asked

    def add_parser(
        self,
        name: str,
        *,
        help: str,  # noqa: A002  # argparse's word
        description: str | None = None,
        epilog: str | None = None,
    ) -> Parser:
        """Return the parser of a verb."""
        if self._asked in {None, name}:
            return self._added.add_parser(name, help=help, description=description, epilog=epilog)
        return self._added.choices.setdefault(name, _UNASKED)


class _Unasked(Parser):
    """Stands for every verb that was not asked for: takes flags and forgets them."""

    def add_argument(self, *_words: str, **_how: object) -> argparse.Action:
        return _FORGOTTEN

    def add_mutually_exclusive_group(
        self, *, required: bool = False
    ) -> "argparse._MutuallyExclusiveGroup":
        # Of a parser of its own: two verbs may have the same flags in theirs.
        return Parser(add_help=False).add_mutually_exclusive_group(required=required)

    def set_defaults(self, **_defaults: object) -> None:
        return


_FORGOTTEN = argparse.Action([], "forgotten")
_UNASKED = _Unasked(add_help=False)


def verbs_of(parser: Parser) -> Verbs:
    """Return where a noun's verbs are added."""
    return Verbs(parser)


def refuse_flag(parser: Parser, flag: str, reason: str) -> None:
    """Add a flag that is always refused, with the reason, rather than called unknown."""
    parser.add_argument(
        flag, action=_Refused, const=reason, metavar="NAME", help=f"refused: {reason}"
    )


def add_connection(parser: Parser) -> None:
    """Add the flags of every command that talks to the API."""
    # SUPPRESS: what stood before the command (`strongroom --context X ...`) is kept.
    parser.add_argument(
        "--context",
        metavar="NAME",
        default=argparse.SUPPRESS,
        help="the cluster to talk to (default: $STRONGROOM_CONTEXT, else `context use`)",
    )
    parser.add_argument(
        "--format", choices=("table", "json"), default="table", help="how to print (default: table)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print names or ids only")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="print the id of every request"
    )


def add_admin_socket(parser: Parser) -> None:
    """Add the flag that names the local manager's admin socket."""
    parser.add_argument(
        "--admin-socket",
        metavar="PATH",
        default=DEFAULT_ADMIN_SOCKET,
        help=f"the local manager's socket (default: {DEFAULT_ADMIN_SOCKET})",
    )


def add_waiting(parser: Parser) -> None:
    """Add the flags of commands that wait until what they asked for is true."""
    parser.add_argument(
        "--timeout",
        type=duration,
        default=DEFAULT_TIMEOUT_S,
        action=_Said,
        metavar="TIME",
        help="how long to wait for the nodes; afterwards exit 4, the change stays (default: 30s, "
        "or until a change that goes out in groups is over)",
    )
    parser.set_defaults(timeout_said=False)
    parser.add_argument("--detach", action="store_true", help="do not wait for the nodes")


def add_labels(parser: Parser, flag: str = "--label", help_text: str = "set a label") -> None:
    """Add a repeatable KEY=VALUE flag."""
    parser.add_argument(
        flag, type=label, action="append", default=[], metavar="KEY=VALUE", help=help_text
    )


def label(text: str) -> tuple[str, str]:
    """Return key and value of `KEY=VALUE`."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError("labels read KEY=VALUE")
    return key, value


def label_filter(text: str) -> str:
    """Return `KEY=VALUE` of a filter that reads `label=KEY=VALUE`."""
    kind, equals, rest = text.partition("=")
    if kind != "label" or not equals or "=" not in rest.strip("="):
        raise argparse.ArgumentTypeError("filters read label=KEY=VALUE")
    return rest


def duration(text: str) -> float:
    """Return the seconds in `30s`, `500ms`, `2m`, `1h`, `7d` or `30`."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError("times read 30s, 500ms, 2m, 1h or 7d")
    return float(found.group(1)) * _UNITS_S[found.group(2)]


def count(text: str) -> int:
    """Return a whole number, zero included."""
    if _NUMBER.fullmatch(text) is None:
        raise argparse.ArgumentTypeError("takes a whole number")
    return int(text)


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    number = count(text)
    if number == 0:
        raise argparse.ArgumentTypeError("takes a whole number from 1 on")
    return number


def user_id(text: str) -> int:
    """Return a numeric uid or gid."""
    if _NUMBER.fullmatch(text) is None:
        raise argparse.ArgumentTypeError("takes a numeric id: names differ between nodes")
    return int(text)


def on_terminal() -> bool:
    """Return whether progress may be drawn: standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()
