"""`strongroom manager rm`: asks for a removal and waits until the manager is out of the engine."""

import time
from argparse import Namespace
from typing import Final

from cluster.cli import answers
from cluster.cli.connection import Connection, connect, path_of
from cluster.cli.output import (
    ExitCode,
    clear_progress,
    complain,
    print_result,
    show_progress,
    warn,
)
from cluster.protocol.errors import Unavailable

LOOK_S: Final = 0.3
_TWO: Final = 2


def remove(args: Namespace) -> int:
    """Remove the manager that was named; return the exit code."""
    connection = connect(args)
    answer = connection.write("DELETE", path_of("managers", args.name))
    name = answers.text(answer, "name")
    if args.detach:
        print_result(args, answer, f"manager {name} is being removed", "name")
        return ExitCode.DONE
    if not _is_gone(connection, answers.text(answer, "id"), args.timeout):
        return complain(
            f"manager {name} is not out yet: the engine waits until the others are connected; the "
            "removal goes on, see `strongroom manager ls`",
            ExitCode.STILL_WAITING,
        )
    print_result(args, {**answer, "state": "removed"}, f"manager {name} removed", "name")
    if answers.number(answer, "managers_left") <= _TWO:
        warn("the managers that are left tolerate no failure; see `strongroom status`")
    return ExitCode.DONE


def _is_gone(connection: Connection, manager_id: str, timeout_s: float) -> bool:
    """Return whether the manager left the list in time; whoever answers it is out of is not it."""
    until = connection.clock.monotonic_s() + timeout_s
    while True:
        try:
            managers = answers.rows(connection.get("/v1/managers"), "managers")
        except Unavailable:
            managers = None  # the leader may just have gone; the removal is decided
        if managers is not None and all(one.get("id") != manager_id for one in managers):
            clear_progress()
            connection.remember_managers([answers.text(one, "api_address") for one in managers])
            return True
        if connection.clock.monotonic_s() >= until:
            clear_progress()
            return False
        show_progress("waiting until its engine member is out")
        time.sleep(LOOK_S)
