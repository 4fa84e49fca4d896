"""`strongroom context`: which cluster these commands talk to, and as whom."""

from argparse import Namespace
from datetime import UTC, datetime

from cluster.cli.arguments import Parser, verbs_of
from cluster.cli.context_files import Context, ContextFiles
from cluster.cli.output import ExitCode, print_object, print_rows, say
from cluster.cli.settings import read_settings
from cluster.protocol.errors import NotFound

_COLUMNS = (
    ("", "used"),
    ("NAME", "name"),
    ("OPERATOR", "operator"),
    ("ROLE", "role"),
    ("TRUST DOMAIN", "trust_domain"),
    ("MANAGERS", "endpoints"),
    ("CERTIFICATE EXPIRES", "expires"),
)


def add_commands(parser: Parser) -> None:
    """Add the verbs of `strongroom context`."""
    verbs = verbs_of(parser)
    for name, run, help_text in (
        ("ls", _list, "list contexts; * is the one in use"),
        ("show", _show, "show a context, never its key"),
        ("use", _use, "choose the context of later commands"),
        ("rm", _remove, "remove a context with its key"),
    ):
        verb = verbs.add_parser(name, help=help_text)
        verb.set_defaults(run=run)
        if name in {"use", "rm"}:
            verb.add_argument("name", metavar="NAME")
            continue
        if name == "show":
            verb.add_argument("name", metavar="NAME", nargs="?", help="default: the one in use")
        verb.add_argument("--format", choices=("table", "json"), default="table")
        verb.add_argument("-q", "--quiet", action="store_true", help="print names only")


def _list(args: Namespace) -> int:
    files = ContextFiles(read_settings())
    try:
        used = files.chosen(args.context).name
    except NotFound:
        used = ""
    rows = [_shown(files.load(name), name == used) for name in files.names()]
    print_rows(args, rows, _COLUMNS)
    return ExitCode.DONE


def _show(args: Namespace) -> int:
    files = ContextFiles(read_settings())
    context = files.chosen(args.name or args.context)
    shown = _shown(context, is_used=False)
    del shown["used"]
    print_object(args, {**shown, "revision": files.seen(context.name).revision})
    return ExitCode.DONE


def _use(args: Namespace) -> int:
    ContextFiles(read_settings()).use(args.name)
    say(f"context {args.name} is in use")
    return ExitCode.DONE


def _remove(args: Namespace) -> int:
    ContextFiles(read_settings()).remove(args.name)
    say(f"context {args.name} removed; an admin can also run `strongroom operator rm`")
    return ExitCode.DONE


def _shown(context: Context, is_used: bool) -> dict[str, object]:
    expires = datetime.fromtimestamp(context.not_after, UTC)
    return {
        "used": "*" if is_used else " ",
        "name": context.name,
        "operator": context.operator,
        "role": context.role,
        "trust_domain": context.trust_domain,
        "endpoints": list(context.endpoints),
        "expires": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
