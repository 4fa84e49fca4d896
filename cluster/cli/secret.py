"""`strongroom secret`: values go in by file or standard input; nothing brings one out."""

from argparse import Namespace

from cluster.cli import answers, secret_rotation
from cluster.cli.arguments import (
    Parser,
    add_connection,
    add_labels,
    add_waiting,
    label_filter,
    refuse_flag,
    verbs_of,
)
from cluster.cli.connection import connect, path_of
from cluster.cli.credentials import read_value
from cluster.cli.exposure import add_where
from cluster.cli.generation import add_generation, add_give_up, add_schedule
from cluster.cli.output import ExitCode, complain, print_object, print_result, print_rows, warn
from cluster.cli.secret_versions import add_terms, add_version_verbs, terms_query
from cluster.cli.update_flags import add_policy_flags, policy_query

_COLUMNS = (
    ("NAME", "name"),
    ("VERSION", "primary"),
    ("SIZE", "size"),
    ("USED BY", "used_by"),
    ("LABELS", "labels"),
    ("EXPIRES", "expires_at"),
    ("UPDATED", "updated_at"),
)


def add_commands(parser: Parser) -> None:
    """Add the verbs of `strongroom secret`."""
    verbs = verbs_of(parser)

    create = verbs.add_parser("create", help="store a new secret", description=_VALUE_HELP)
    create.add_argument("name", metavar="NAME")
    create.add_argument("file", metavar="FILE", nargs="?", help="file with the value, or -")
    add_labels(create)
    add_terms(create, keep=True)
    add_generation(create)
    add_schedule(create)
    refuse_flag(
        create,
        "--template-driver",
        "templates are not supported; render the value before you store it",
    )
    add_waiting(create)
    add_connection(create)
    create.set_defaults(run=_create)

    ls = verbs.add_parser("ls", help="list secrets")
    ls.add_argument(
        "--filter",
        type=label_filter,
        action="append",
        default=[],
        metavar="label=KEY=VALUE",
        help="only secrets with this label",
    )
    add_connection(ls)
    ls.set_defaults(run=_list)

    inspect = verbs.add_parser("inspect", help="show a secret's versions and who uses it")
    inspect.add_argument("name", metavar="NAME")
    add_connection(inspect)
    inspect.set_defaults(run=_inspect)

    add_where(verbs)

    rotate = verbs.add_parser(
        "rotate",
        help="give a secret a new value on every node that holds it",
        description=f"Adds a version, makes it primary, and waits for the nodes. {_VALUE_HELP}",
    )
    rotate.add_argument("name", metavar="NAME")
    rotate.add_argument("file", metavar="FILE", nargs="?", help="file with the value, or -")
    add_terms(rotate, keep=False)
    add_generation(rotate, optional_kind=True)
    add_give_up(rotate)
    add_policy_flags(rotate, suffix=" (default: what the services ask for)")
    add_waiting(rotate)
    add_connection(rotate)
    rotate.set_defaults(run=_rotate)

    rotation = verbs.add_parser("rotation", help="show its schedule and how its rotation stands")
    rotation.add_argument("name", metavar="NAME")
    add_connection(rotation)
    rotation.set_defaults(run=secret_rotation.show)

    add_version_verbs(verbs)

    label = verbs.add_parser("label", help="set and remove labels")
    label.add_argument("name", metavar="NAME")
    add_labels(label, "--add")
    label.add_argument("--remove", action="append", default=[], metavar="KEY", help="remove one")
    add_connection(label)
    label.set_defaults(run=_label)

    rm = verbs.add_parser("rm", help="remove secrets that nothing refers to")
    rm.add_argument("names", metavar="NAME", nargs="+")
    add_connection(rm)
    rm.set_defaults(run=_remove)


_VALUE_HELP = "The value is read from FILE, or from standard input: never from an argument."


def _create(args: Namespace) -> int:
    wrong = secret_rotation.contradiction(args)
    if wrong:
        return complain(wrong, ExitCode.USAGE)
    if args.generate is not None and args.file is None:
        answer = secret_rotation.generate(args)
    else:
        answer = _create_given(args)
    if secret_rotation.has_schedule(args):
        return secret_rotation.schedule_new(args, connect(args), answer)
    print_result(args, answer, f"secret {args.name} created, version 1", "name")
    return ExitCode.DONE


def _create_given(args: Namespace) -> answers.Answer:
    value = read_value(args.file)
    labels = [("label", f"{key}={item}") for key, item in args.label]
    query = [("name", args.name), *labels, *terms_query(args)]
    return connect(args).write("POST", "/v1/secrets", query=query, value=value)


def _list(args: Namespace) -> int:
    query = [("label", text) for text in args.filter]
    secrets = connect(args).rows("/v1/secrets", "secrets", query)
    rows = secrets if args.format == "json" else [{**row, **_primary(row)} for row in secrets]
    print_rows(args, rows, _COLUMNS)
    for row in secrets if args.format == "table" and not args.quiet else ():
        if row.get("must_rotate"):
            warn(f"secret {row.get('name')} {row['must_rotate']}")
        rotation = row.get("rotation")
        if isinstance(rotation, dict) and rotation.get("failing"):
            warn(f"secret {row.get('name')}: its rotation met an error: {rotation.get('error')}")
    return ExitCode.DONE


def _inspect(args: Namespace) -> int:
    print_object(args, connect(args).get(path_of("secrets", args.name)))
    return ExitCode.DONE


def _rotate(args: Namespace) -> int:
    from cluster.cli.rollouts import follow

    if args.give_up:
        return secret_rotation.give_up(args)
    if args.generate is not None and policy_query(args):
        return complain(
            "a rotation that generates its value goes out as its services ask", ExitCode.USAGE
        )
    if args.generate is not None:
        return secret_rotation.rotate(args)
    value = read_value(args.file)
    connection = connect(args)
    path = path_of("secrets", args.name, "versions")
    query = [*terms_query(args), *policy_query(args)]
    answer = connection.write("POST", path, query=query, value=value)
    return follow(args, connection, answer, f"version {answers.number(answer, 'version')}")


def _label(args: Namespace) -> int:
    change = {"add": dict(args.add), "remove": args.remove}
    answer = connect(args).write("PATCH", path_of("secrets", args.name, "labels"), change)
    print_result(args, answer, f"secret {args.name} labelled", "name")
    return ExitCode.DONE


def _remove(args: Namespace) -> int:
    connection = connect(args)
    for name in args.names:
        answer = connection.write("DELETE", path_of("secrets", name))
        print_result(args, answer, f"secret {name} removed", "name")
    return ExitCode.DONE


def _primary(secret: answers.Answer) -> answers.Answer:
    """Return number and size of the primary version, for the table."""
    for version in answers.rows(secret, "versions"):
        if version.get("state") == "primary":
            return {"primary": version.get("number"), "size": version.get("size")}
    return {}
