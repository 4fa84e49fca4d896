"""`strongroom config`: files for services that are no secrets, and may be read back."""

import sys
from argparse import Namespace
from base64 import b64decode
from binascii import Error as NotBase64

from cluster.cli import answers
from cluster.cli.arguments import (
    Parser,
    add_connection,
    add_labels,
    label_filter,
    refuse_flag,
    verbs_of,
)
from cluster.cli.connection import connect, path_of
from cluster.cli.credentials import read_value
from cluster.cli.output import ExitCode, print_object, print_result, print_rows, printable, say
from cluster.protocol.errors import MalformedMessage

_COLUMNS = (
    ("NAME", "name"),
    ("SIZE", "size"),
    ("USED BY", "used_by"),
    ("LABELS", "labels"),
    ("CREATED", "created_at"),
    ("UPDATED", "updated_at"),
)
_NO_TEMPLATES = "templates are not supported; render the content before you store it"


def add_commands(parser: Parser) -> None:
    """Add the verbs of `strongroom config`."""
    verbs = verbs_of(parser)

    create = verbs.add_parser(
        "create",
        help="store a new config",
        description="The content is read from FILE, or from standard input, and never changes: a "
        "new content is a new config. What must stay secret belongs into a secret.",
    )
    create.add_argument("name", metavar="NAME")
    create.add_argument("file", metavar="FILE", nargs="?", help="file with the content, or -")
    add_labels(create)
    refuse_flag(create, "--template-driver", _NO_TEMPLATES)
    create.set_defaults(run=_create)

    ls = verbs.add_parser("ls", help="list configs")
    ls.add_argument(
        "--filter",
        type=label_filter,
        action="append",
        default=[],
        metavar="label=KEY=VALUE",
        help="only configs with this label",
    )
    ls.set_defaults(run=_list)

    inspect = verbs.add_parser("inspect", help="show a config, and its content if asked for")
    inspect.add_argument("name", metavar="NAME")
    shown = inspect.add_mutually_exclusive_group()
    shown.add_argument("--content", action="store_true", help="print the content alone, as it is")
    shown.add_argument("--pretty", action="store_true", help="print the content below the rest")
    inspect.set_defaults(run=_inspect)

    label = verbs.add_parser("label", help="set and remove labels")
    label.add_argument("name", metavar="NAME")
    add_labels(label, "--add")
    label.add_argument("--remove", action="append", default=[], metavar="KEY", help="remove one")
    label.set_defaults(run=_label)

    rm = verbs.add_parser("rm", help="remove configs that nothing refers to")
    rm.add_argument("names", metavar="NAME", nargs="+")
    rm.set_defaults(run=_remove)
    for verb in (create, ls, inspect, label, rm):
        add_connection(verb)


def _create(args: Namespace) -> int:
    content = read_value(args.file)
    labels = [("label", f"{key}={item}") for key, item in args.label]
    query = [("name", args.name), *labels]
    answer = connect(args).write("POST", "/v1/configs", query=query, value=content)
    print_result(args, answer, f"config {args.name} created", "name")
    return ExitCode.DONE


def _list(args: Namespace) -> int:
    query = [("label", text) for text in args.filter]
    print_rows(args, connect(args).rows("/v1/configs", "configs", query), _COLUMNS)
    return ExitCode.DONE


def _inspect(args: Namespace) -> int:
    connection = connect(args)
    if not (args.content or args.pretty):
        print_object(args, connection.get(path_of("configs", args.name)))
        return ExitCode.DONE
    answer = connection.get(path_of("configs", args.name, "content"))
    content = _content(answer)
    if args.content:
        _write(content)
    elif args.format == "json" or args.quiet:
        print_object(args, answer)
    else:
        print_object(args, {key: value for key, value in answer.items() if key != "data"})
        say("content:")
        _write_lines(content)
    return ExitCode.DONE


def _label(args: Namespace) -> int:
    change = {"add": dict(args.add), "remove": args.remove}
    answer = connect(args).write("PATCH", path_of("configs", args.name, "labels"), change)
    print_result(args, answer, f"config {args.name} labelled", "name")
    return ExitCode.DONE


def _remove(args: Namespace) -> int:
    connection = connect(args)
    for name in args.names:
        answer = connection.write("DELETE", path_of("configs", name))
        print_result(args, answer, f"config {name} removed", "name")
    return ExitCode.DONE


def _content(answer: answers.Answer) -> bytes:
    try:
        return b64decode(answers.text(answer, "data"), validate=True)
    except (NotBase64, ValueError):
        raise MalformedMessage("the manager's answer holds no content") from None


def _write(content: bytes) -> None:
    """Write the content as it is; on a terminal so that it cannot draw there."""
    if sys.stdout.isatty():
        _write_lines(content)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _write_lines(content: bytes) -> None:
    text = content.decode(errors="backslashreplace").removesuffix("\n")
    for line in text.split("\n"):
        sys.stdout.write(f"{printable(line.expandtabs())}\n")
