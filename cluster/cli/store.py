"""`strongroom store`: the storage engine of this machine's manager."""

from argparse import Namespace

from cluster.cli import admin_socket
from cluster.cli.arguments import Parser, add_admin_socket, verbs_of
from cluster.cli.output import ExitCode, complain, say


def add_commands(parser: Parser) -> None:
    """Add the verbs of `strongroom store`."""
    recover = verbs_of(parser).add_parser(
        "recover-space",
        help="free space after the engine's quota was reached",
        description="Forgets old history, gives the space back and accepts writes again. Run it "
        "on each manager that `strongroom status` names.",
    )
    add_admin_socket(recover)
    recover.set_defaults(run=_recover_space)


def _recover_space(args: Namespace) -> int:
    answer = admin_socket.call(args.admin_socket, "POST", "/admin/recover-space")
    say(f"{answer.get('size_bytes')} of {answer.get('quota_bytes')} bytes in use")
    if answer.get("alarms"):
        return complain(
            "the engine still refuses writes; run this on the other managers, or remove secrets",
            ExitCode.FAILED,
        )
    return ExitCode.DONE
