"""`strongroom store`: the storage engine of this machine's manager."""

from argparse import Namespace

from cluster.cli import admin_socket
from cluster.cli.arguments import Parser, add_admin_socket, verbs_of
from cluster.cli.output import ExitCode, complain, say


def add_commands(parser: Parser) -> None:
    """Add the verbs of `strongroom store`."""
    verbs = verbs_of(parser)
    recover = verbs.add_parser(
        "recover-space",
        help="free space after the engine's quota was reached",
        description="Forgets old history, gives the space back and accepts writes again. Run it "
        "on each manager that `strongroom status` names.",
    )
    add_admin_socket(recover)
    recover.set_defaults(run=_recover_space)

    migrate = verbs.add_parser(
        "migrate",
        help="move a single manager's store from SQLite to etcd",
        description="Run as root on the manager. It serves nothing meanwhile, and goes on if this "
        "command is interrupted. Until the last step a failure or a crash leaves the store where "
        "it is. Afterwards other managers may join.",
    )
    migrate.add_argument("--to", choices=("etcd",), required=True, help="the new engine")
    add_admin_socket(migrate)
    migrate.set_defaults(run=_migrate)

    quorum = verbs.add_parser(
        "recover-quorum",
        help="after the majority is lost for good: go on with this manager alone",
        description="Run as root on one manager that survived and is unlocked (`strongroom unlock "
        "--detach`). What only the lost managers held is lost, revocations included. Managers "
        "that are only down, locked or cut off must not be given up: bring them back instead.",
    )
    quorum.add_argument(
        "--yes", action="store_true", help="do not ask; for scripts that have asked"
    )
    add_admin_socket(quorum)
    quorum.set_defaults(run=_recover_quorum)


def _recover_space(args: Namespace) -> int:
    answer = admin_socket.call(args.admin_socket, "POST", "/admin/recover-space")
    say(f"{answer.get('size_bytes')} of {answer.get('quota_bytes')} bytes in use")
    if answer.get("alarms"):
        return complain(
            "the engine still refuses writes; run this on the other managers, or remove secrets",
            ExitCode.FAILED,
        )
    return ExitCode.DONE


def _recover_quorum(args: Namespace) -> int:
    from cluster.cli.quorum_recovery import recover

    return recover(args)


def _migrate(args: Namespace) -> int:
    from cluster.cli.credentials import json_body

    for step in admin_socket.steps(args.admin_socket, "/admin/migrate", json_body({"to": args.to})):
        say(step)
    say("the store is on etcd; other managers may join: `strongroom token create --role manager`")
    return ExitCode.DONE
