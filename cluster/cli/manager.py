"""`strongroom manager`: runs the manager of this machine; lists the cluster's."""

from argparse import Namespace
from pathlib import Path

from cluster.cli import answers
from cluster.cli.arguments import Parser, add_connection, verbs_of
from cluster.cli.output import ExitCode, print_rows

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
    ("etcd", "PATH", "the etcd program (default: the one on PATH)"),
    ("unlock-key-file", "FILE", "unlock by itself from this file: convenient and weak"),
    ("hook-directory", "DIR", "hooks for scheduled rotation (default: none)"),
    ("hook-timeout-s", "SECONDS", "how long one call of a hook may take (default: 30)"),
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
