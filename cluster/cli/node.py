"""`strongroom node`: the nodes, their labels, and whether they may be given tasks."""

from argparse import Namespace
from collections.abc import Mapping

from cluster.cli.arguments import Parser, add_connection, add_labels, verbs_of
from cluster.cli.connection import connect, path_of
from cluster.cli.exposure import add_node_verbs
from cluster.cli.output import ExitCode, print_object, print_result, print_rows

_COLUMNS = (
    ("NAME", "name"),
    ("STATE", "state"),
    ("AVAILABILITY", "availability"),
    ("MEMORY", "strength"),
    ("MOUNTS", "mounts"),
    ("TASKS", "tasks"),
    ("LABELS", "labels"),
    ("SINCE", "state_since"),
)


def add_commands(parser: Parser) -> None:
    """Add the verbs of `strongroom node`."""
    verbs = verbs_of(parser)
    ls = verbs.add_parser("ls", help="list nodes")
    add_connection(ls)
    ls.set_defaults(run=_list)

    for name, run, help_text in (
        ("inspect", _inspect, "show a node"),
        ("drain", _drain, "move its tasks elsewhere and give it none"),
        ("activate", _activate, "let it have tasks again"),
        ("rm", _remove, "evict it: it wipes what it holds and may not come back"),
    ):
        verb = verbs.add_parser(name, help=help_text)
        verb.add_argument("name", metavar="NAME")
        add_connection(verb)
        verb.set_defaults(run=run)

    add_node_verbs(verbs)

    for name, help_text in (("update", "change labels and availability"), ("label", "as update")):
        verb = verbs.add_parser(name, help=help_text)
        verb.add_argument("name", metavar="NAME")
        add_labels(verb, "--label-add")
        verb.add_argument(
            "--label-rm", action="append", default=[], metavar="KEY", help="remove a label"
        )
        verb.add_argument("--availability", choices=("active", "drain"))
        add_connection(verb)
        verb.set_defaults(run=_update)


def _list(args: Namespace) -> int:
    print_rows(args, connect(args).rows("/v1/nodes", "nodes"), _COLUMNS)
    return ExitCode.DONE


def _inspect(args: Namespace) -> int:
    print_object(args, connect(args).get(path_of("nodes", args.name)))
    return ExitCode.DONE


def _update(args: Namespace) -> int:
    change = {
        "add_labels": dict(args.label_add),
        "remove_labels": args.label_rm,
        "availability": args.availability,
    }
    return _change(args, change, f"node {args.name} updated")


def _drain(args: Namespace) -> int:
    return _change(args, {"availability": "drain"}, f"node {args.name} drains; its tasks move")


def _activate(args: Namespace) -> int:
    return _change(args, {"availability": "active"}, f"node {args.name} is active")


def _change(args: Namespace, change: Mapping[str, object], line: str) -> int:
    answer = connect(args).write("PATCH", path_of("nodes", args.name), change)
    print_result(args, answer, line, "name")
    return ExitCode.DONE


def _remove(args: Namespace) -> int:
    answer = connect(args).write("DELETE", path_of("nodes", args.name))
    print_result(args, answer, f"node {args.name} removed; its agent wipes what it holds", "name")
    return ExitCode.DONE
