"""`strongroom manager`: runs the manager of this machine; lists and removes the cluster's."""

from argparse import Namespace
from pathlib import Path
from typing import Final

from cluster.cli import answers
from cluster.cli.arguments import Parser, add_connection, duration, verbs_of
from cluster.cli.output import ExitCode, print_rows

REMOVAL_TIMEOUT_S: Final = 60.0

_COLUMNS = (
    ("NAME", "name"),
    ("STATE", "state"),
    ("LEADER", "leader"),
    ("API ADDRESS", "api_address"),
    ("JOIN ADDRESS", "join_address"),
    ("JOINED", "joined_at"),
)

_SETTINGS = (
    ("name", "NAME", "this manager's name"),
    ("advertise", "HOST", "the host by which others reach it"),
    ("data-dir", "DIR", "seal file and engine data (default: /var/lib/strongroom)"),
    ("run-dir", "DIR", "sockets (default: /run/strongroom)"),
    ("api-listen", "HOST:PORT", "API and agents' sessions (default: 0.0.0.0:7443)"),
    ("join-listen", "HOST:PORT", "joining (default: 0.0.0.0:7444)"),
    ("peer-listen", "HOST:PORT", "other managers' engines (default: 0.0.0.0:7445)"),
    ("metrics-listen", "HOST:PORT", "metrics and health, on loopback only (default: none)"),
    ("etcd", "PATH", "the etcd program (default: the one on PATH)"),
    ("unlock-key-file", "FILE", "unlock by itself from this file: convenient and weak"),
    ("hook-directory", "DIR", "hooks for scheduled rotation (default: none)"),
    ("hook-timeout-s", "SECONDS", "how long one call of a hook may take (default: 30)"),
    ("audit-keep-days", "DAYS", "how long audit export files are kept (default: for ever)"),
    ("log-format", "FORMAT", "json or text"),
)


def add_commands(parser: Parser) -> None:
    """Add the verbs of `strongroom manager`."""
    verbs = verbs_of(parser)
    run = verbs.add_parser(
        "run",
        help="run the manager in the foreground",
        description="Starts locked. Then: `strongroom init`, `join` or `unlock`, as root.",
    )
    run.add_argument("--config", metavar="FILE", help="TOML file; flags go before it")
    for name, metavar, help_text in _SETTINGS:
        run.add_argument(f"--{name}", metavar=metavar, help=help_text)
    run.set_defaults(run=_run)

    ls = verbs.add_parser("ls", help="list managers")
    add_connection(ls)
    ls.set_defaults(run=_list)

    rm = verbs.add_parser(
        "rm",
        help="remove a manager, running or lost",
        description="Its certificate is refused at once; its engine member is taken out and its "
        "name is free when this command returns. Refused where the others would be no majority.",
        epilog="To replace a lost manager: remove it, then `strongroom join` a new one.",
    )
    rm.add_argument("name", metavar="NAME", help="its name or id, from `manager ls`")
    rm.add_argument(
        "--timeout",
        type=duration,
        default=REMOVAL_TIMEOUT_S,
        metavar="TIME",
        help="how long to wait until it is out; afterwards exit 4, the removal goes on "
        "(default: 60s)",
    )
    rm.add_argument("--detach", action="store_true", help="do not wait until it is out")
    add_connection(rm)
    rm.set_defaults(run=_remove)

    for name in ("promote", "demote"):
        verb = verbs.add_parser(name, help="refused: managers and nodes do not change roles")
        verb.add_argument("name", metavar="NAME")
        verb.set_defaults(run=_refuse_role)


def _run(args: Namespace) -> int:
    # Everything a manager is made of: only this verb pays for it.
    from cluster import config, manager

    names = [name.replace("-", "_") for name, _metavar, _help in _SETTINGS]
    overrides = {name: getattr(args, name) for name in names}
    return manager.run(config.load(Path(args.config) if args.config else None, overrides))


def _list(args: Namespace) -> int:
    from cluster.cli.connection import connect

    managers = answers.rows(connect(args).get("/v1/managers"), "managers")
    print_rows(args, managers, _COLUMNS)
    return ExitCode.DONE


def _remove(args: Namespace) -> int:
    from cluster.cli.manager_removal import remove

    return remove(args)


def _refuse_role(args: Namespace) -> int:
    from cluster.protocol.errors import InvalidRequest

    raise InvalidRequest(
        "a manager holds the root key and a node must not, so neither becomes the other; "
        + (
            "join another manager with `strongroom token create --role manager`"
            if args.verb == "promote"
            else "remove the manager with `strongroom manager rm`, and join an agent with a "
            "worker token"
        )
    )
