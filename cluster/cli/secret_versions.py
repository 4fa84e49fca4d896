"""`strongroom secret versions`, `rollback`, `update`, `prune`; flags on how long versions live.

Says only what was asked for; what goes together is the manager's business.
"""

import argparse
from argparse import Namespace
from collections.abc import Sequence

from cluster.cli import answers
from cluster.cli.arguments import (
    Parser,
    Verbs,
    add_connection,
    add_waiting,
    count,
    duration,
    positive,
)
from cluster.cli.connection import Connection, connect, path_of
from cluster.cli.generation import add_schedule_change
from cluster.cli.output import ExitCode, cell, complain, print_json, print_result, print_rows, say
from cluster.protocol.errors import SecretNotFound

_COLUMNS = (
    ("VERSION", "number"),
    ("STATE", "state"),
    ("VALUE", "value"),
    ("CREATED", "created_at"),
    ("BY", "created_by"),
    ("RETIRES", "retire_at"),
    ("EXPIRES", "expires_at"),
    ("PINNED BY", "pinned_by"),
    ("NODES", "nodes"),
)
_NAMED = 3


def add_terms(parser: Parser, *, keep: bool, never: bool = False) -> None:
    """Add the flags of how long versions live; `keep`, `never`: those that not every verb takes."""
    if keep:
        parser.add_argument(
            "--keep",
            type=count,
            metavar="N",
            help="retired versions whose values stay for a rollback, 0 to 50",
        )
    parser.add_argument(
        "--overlap",
        type=duration,
        metavar="TIME",
        help="how long the version before stays active after a rotation: 10m, 0s, ...",
    )
    parser.add_argument(
        "--expires",
        type=expiry if never else _coming,
        metavar="WHEN",
        help="when the credential stops working: 30d, 2027-01-31"
        f"{', or never' if never else ''}; a warning only",
    )


def terms_of(args: Namespace) -> answers.Answer:
    """Return what the flags say of versions, as the API takes it."""
    terms: answers.Answer = dict(args.expires or {})
    if args.overlap is not None:
        terms["overlap_s"] = args.overlap
    if getattr(args, "keep", None) is not None:
        terms["keep"] = args.keep
    return terms


def terms_query(args: Namespace) -> list[tuple[str, str]]:
    """Return the same for a request whose body is a value."""
    return [(key, str(value)) for key, value in terms_of(args).items()]


def expiry(text: str) -> answers.Answer:
    """Return the expiry in `30d`, `2027-01-31`, `2027-01-31T18:00:00Z` or `never`."""
    if text == "never":
        return {"never_expires": True}
    if text[-1:].isalpha() and not text.endswith("Z"):
        return {"expires_in_s": duration(text)}
    if "-" in text and text.isascii() and text.isprintable():
        return {"expires_at": text}
    raise argparse.ArgumentTypeError("an expiry reads 30d, 12h, 2027-01-31 or 2027-01-31T18:00:00Z")


def add_version_verbs(verbs: Verbs) -> None:
    """Add the verbs on versions."""
    versions = verbs.add_parser("versions", help="show each version: state, terms, where it is")
    versions.set_defaults(run=_versions)
    rollback = verbs.add_parser(
        "rollback",
        help="make an earlier version primary again on every node",
        description="Goes back to the version that was primary before, under its own number, and "
        "waits for the nodes. The version it leaves is retired and kept.",
    )
    rollback.add_argument("--to", type=positive, metavar="N", help="this version instead")
    rollback.set_defaults(run=_roll_back)
    add_waiting(rollback)
    update = verbs.add_parser(
        "update",
        help="change how many versions are kept, the overlap, the expiry of the primary",
        description="What no flag names stays. --overlap is what a rotation without --overlap "
        "takes; 0s is none.",
    )
    update.set_defaults(run=_update)
    add_terms(update, keep=True, never=True)
    add_schedule_change(update)
    for verb in (versions, rollback, update):
        verb.add_argument("name", metavar="NAME")
        add_connection(verb)
    prune = verbs.add_parser(
        "prune",
        help="destroy the values of retired versions that are not kept",
        description="Never touches what may still be issued, or what an unfinished rollout could "
        "go back to. What is destroyed cannot be rolled back to.",
    )
    prune.add_argument("names", metavar="NAME", nargs="*")
    prune.add_argument("--all", action="store_true", help="of every secret in your reach")
    prune.add_argument(
        "--keep", type=count, metavar="N", help="keep this many (default: what each secret says)"
    )
    add_connection(prune)
    prune.set_defaults(run=_prune)


def _versions(args: Namespace) -> int:
    versions = answers.rows(
        connect(args).get(path_of("secrets", args.name, "versions")), "versions"
    )
    rows = versions if args.format == "json" else [{**one, **_short(one)} for one in versions]
    print_rows(args, rows, _COLUMNS, key="number")
    return ExitCode.DONE


def _short(version: answers.Answer) -> answers.Answer:
    """Return the nodes and the state of a version as the table shows them."""
    nodes = answers.texts(version, "nodes")
    more = len(nodes) - _NAMED
    state = answers.text(version, "state")
    return {
        "nodes": [*nodes[:_NAMED], f"and {more} more"] if more > 0 else list(nodes),
        "state": f"{state} (taken back)" if version.get("taken_back") else state,
    }


def _roll_back(args: Namespace) -> int:
    from cluster.cli.rollouts import follow

    connection = connect(args)
    asked = {} if args.to is None else {"version": args.to}
    answer = connection.write("POST", path_of("secrets", args.name, "rollback"), asked)
    version, left = answers.number(answer, "version"), answers.number(answer, "from_version")
    return follow(args, connection, answer, f"version {version}, rolled back from {left},")


def _update(args: Namespace) -> int:
    from cluster.cli import secret_rotation

    connection = connect(args)
    answer: answers.Answer = {"name": args.name}
    scheduled = secret_rotation.update_schedule(args, connection)
    if terms_of(args) or scheduled is None:
        answer = connection.write("PATCH", path_of("secrets", args.name), terms_of(args))
    answer |= scheduled or {}
    print_result(args, answer, f"secret {args.name} updated", "name")
    return ExitCode.DONE


def _prune(args: Namespace) -> int:
    if bool(args.names) is bool(args.all):
        return complain("name secrets, or give --all", ExitCode.USAGE)
    connection = connect(args)
    pruned = [
        answer
        for name in (_all_names(connection) if args.all else args.names)
        if (answer := _prune_one(connection, name, args)) is not None
    ]
    if args.format == "json":
        print_json(pruned)
    elif args.all and not args.quiet and not any(one.get("destroyed") for one in pruned):
        say("nothing to destroy")
    return ExitCode.DONE


def _prune_one(connection: Connection, name: str, args: Namespace) -> answers.Answer | None:
    asked = {} if args.keep is None else {"keep": args.keep}
    try:
        answer = connection.write("POST", path_of("secrets", name, "prune"), asked)
    except SecretNotFound:
        if args.all:
            return None  # removed since the list was made
        raise
    destroyed = answer.get("destroyed")
    if args.format == "json":
        return answer
    if args.quiet:
        say(name)
    elif destroyed:
        say(f"secret {name}: destroyed {cell(destroyed)}, kept {cell(answer.get('kept'))}")
    elif not args.all:
        say(f"secret {name}: nothing to destroy, kept {cell(answer.get('kept'))}")
    return answer


def _all_names(connection: Connection) -> Sequence[str]:
    return [answers.text(one, "name") for one in connection.rows("/v1/secrets", "secrets")]


def _coming(text: str) -> answers.Answer:
    if text == "never":
        raise argparse.ArgumentTypeError("`never` is the default of a new version")
    return expiry(text)
