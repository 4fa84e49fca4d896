"""`strongroom doctor`: what this manager and its machine can protect, check by check.

Looks and changes nothing. What lies on the disk it looks at itself; the rest it asks of the manager
over its admin socket. Exit code 1 when something is insecure.
"""

import os
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.cli import answers
from cluster.cli.arguments import Parser, add_admin_socket
from cluster.cli.output import ExitCode, cell, print_json, say
from cluster.protocol.checks import Check, Strength, weakest
from cluster.protocol.errors import ClusterError

if TYPE_CHECKING:
    from cluster.config import Config

_LEVELS = {"weak": Strength.WEAK, "unhealthy": Strength.INSECURE}


def add_commands(parser: Parser) -> None:
    """Add the flags of `strongroom doctor`."""
    parser.add_argument("--config", metavar="FILE", help="the manager's TOML file")
    parser.add_argument("--data-dir", metavar="DIR", help="default: /var/lib/strongroom")
    parser.add_argument("--run-dir", metavar="DIR", help="default: /run/strongroom")
    parser.add_argument("--unlock-key-file", metavar="FILE", help="if it unlocks by itself")
    add_admin_socket(parser)
    parser.set_defaults(admin_socket=None)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.set_defaults(run=_doctor)


def _doctor(args: Namespace) -> int:
    from cluster.doctor.directories import directory_checks
    from cluster.doctor.machine import machine_checks
    from cluster.system import SystemClock

    config = _config(args)
    owner = config.data_dir.stat().st_uid if config.data_dir.is_dir() else os.geteuid()
    checks = [
        *machine_checks(),
        *directory_checks(
            config.data_dir, config.run_dir, config.unlock_key_file, owner, SystemClock()
        ),
        *_asked(args.admin_socket or str(config.admin_socket)),
    ]
    if args.format == "json":
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            say(f"{check.strength:<9} {check.name:<24} {check.detail}")
    return ExitCode.FAILED if weakest(checks) is Strength.INSECURE else ExitCode.DONE


def _config(args: Namespace) -> "Config":
    from cluster import config

    file = Path(args.config) if args.config else None
    flags = {
        "data_dir": args.data_dir,
        "run_dir": args.run_dir,
        "unlock_key_file": args.unlock_key_file,
    }
    if file is None:
        # Nothing is judged by these two; a configuration cannot be without them.
        flags |= {"name": "doctor", "advertise": "localhost"}
    return config.load(file, flags)


def _asked(socket_path: str) -> Iterator[Check]:
    """Yield what the manager says of itself and of its cluster."""
    from cluster.cli import admin_socket

    try:
        status = admin_socket.call(socket_path, "GET", "/admin/status")
    except ClusterError as error:
        yield Check("manager", Strength.WEAK, error.message)
        return
    yield _manager(status)
    if not isinstance(status.get("cluster"), dict):
        return
    cluster = answers.nested(status, "cluster")
    engine = answers.nested(cluster, "engine")
    findings = answers.rows(cluster, "findings")
    for finding in findings:
        level = _LEVELS.get(cell(finding.get("level")), Strength.WEAK)
        yield Check("cluster", level, cell(finding.get("why")))
    if not findings:
        yield Check("cluster", Strength.SECURE, "nothing is unhealthy or weak")
    yield _engine(engine)
    try:
        found = admin_socket.call(socket_path, "GET", "/admin/doctor")
    except ClusterError as error:
        yield Check("members", Strength.WEAK, error.message)
        return
    for row in answers.rows(found, "checks"):
        strength = Strength(answers.text(row, "strength"))
        yield Check(answers.text(row, "name"), strength, answers.text(row, "detail"))


def _manager(status: answers.Answer) -> Check:
    state, reason = cell(status.get("state")), cell(status.get("reason"))
    if status.get("ready") is True:
        return Check("manager", Strength.SECURE, "serving")
    if state == "serving":
        return Check("manager", Strength.INSECURE, f"serving, but not ready: {reason}")
    hint = "; run `strongroom unlock` on it" if state == "locked" else ""
    return Check("manager", Strength.WEAK, f"{state}{hint}")


def _engine(engine: answers.Answer) -> Check:
    """Return the engine's version and size; what is wrong with it stands in the findings."""
    version = f"{cell(engine.get('kind'))} {cell(engine.get('version'))}"
    size = answers.number(engine, "size_bytes") // 1024**2
    quota = answers.number(engine, "quota_bytes") // 1024**2
    room = f"{size} of {quota} MiB" if quota else f"{size} MiB"
    return Check("engine", Strength.SECURE, f"{version}, {room}")
