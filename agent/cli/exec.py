"""`strongroom-agent exec --service NAME -- COMMAND`: a program as a service, isolated.

Asks the agent who the service is, waits until its secrets are in place, and hands over to
`agent.launch`. Must be root, like the agent.
"""

import argparse
import json
import os
import re
import select
import signal
from collections.abc import Iterator
from pathlib import Path

from agent import linux
from agent.cli.exit_codes import TIMED_OUT, USAGE, code_of, fail
from agent.launch import FAILED_BEFORE_EXEC, Launch, default_environment, exec_service
from agent.local_call import Refused, call

DEFAULT_RUN_DIRECTORY = Path("/run/strongroom-agent")
_POLL_PERIOD_S = 0.1
_ID = re.compile(r"[a-z2-7]{26}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `exec`."""
    parser.add_argument("--service", required=True, metavar="NAME", help="whose identity and view")
    parser.add_argument("--run-dir", type=Path, default=DEFAULT_RUN_DIRECTORY, metavar="DIR")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=30.0,
        metavar="30s",
        help="how long to wait until the service's secrets are mounted",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME",
        help="pass this variable on (repeatable); all but PATH, HOME, TERM and locale are dropped",
    )
    # The agent's own: a command that it runs in a service must not outlive it.
    parser.add_argument("--ends-with", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="+", metavar="COMMAND")


def run(arguments: argparse.Namespace) -> int:
    """Wait for the service, then become its supervisor; return the program's exit code."""
    if os.geteuid() != 0:
        return fail("exec needs root: it enters namespaces and gives up every right", USAGE)
    if arguments.ends_with and not _end_with(arguments.ends_with):
        return fail("the agent that asked for this is gone")
    try:
        launch = _await_service(arguments)
    except Refused as refusal:
        return fail(str(refusal), code_of(refusal.code))
    except TimeoutError as error:
        return fail(str(error), TIMED_OUT)
    except (OSError, ValueError) as error:
        return fail(f"{error}; is the agent running with --run-dir {arguments.run_dir}?")
    try:
        return exec_service(launch)
    except (OSError, ValueError) as error:
        return fail(f"exec: {error}", FAILED_BEFORE_EXEC)


def _end_with(parent: int) -> bool:
    """Let the kernel end this process with its parent; False if that is gone already."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


def _await_service(arguments: argparse.Namespace) -> Launch:
    problem = "the agent does not answer"
    for _ in _polls(arguments.timeout):
        try:
            answer = json.loads(
                call(arguments.run_dir / "control.sock", "service", arguments.service)
            )
        except (FileNotFoundError, ConnectionRefusedError):
            continue
        except Refused as refusal:
            if refusal.code != "service_not_found":
                raise
            problem = str(refusal)
            continue
        if answer["mounted"]:
            return _launch(answer, arguments)
        problem = f"the secrets of service {arguments.service!r} are not mounted yet"
    raise TimeoutError(f"{problem}; see `strongroom service ps` (waited {arguments.timeout:g} s)")


def _polls(timeout_s: float) -> Iterator[None]:
    """Yield at once, then every tenth of a second until the time is over."""
    yield
    for _ in range(round(timeout_s / _POLL_PERIOD_S)):
        select.select((), (), (), _POLL_PERIOD_S)
        yield


def _launch(answer: dict[str, object], arguments: argparse.Namespace) -> Launch:
    match answer:
        case {
            "uid": int(uid),
            "gid": int(gid),
            "mount_path": str(mount_path),
            "workload_socket": str(workload_socket),
            "hidden": list(hidden),
        }:
            return Launch(
                mount_path=Path(mount_path),
                workload_socket=Path(workload_socket),
                uid=uid,
                gid=gid,
                argv=tuple(arguments.command),
                hidden=(arguments.run_dir, *(Path(directory) for directory in hidden)),
                environment=default_environment(os.environ, arguments.env),
                log_socket=_log_socket(answer, arguments),
            )
        case _:
            raise ValueError("the agent's answer is malformed; are both of one version?")


def _log_socket(answer: dict[str, object], arguments: argparse.Namespace) -> Path | None:
    """Return where the output can be asked for, if the service keeps a log.

    What the agent itself runs in a service, checks and commands, is none of its log.
    """
    if answer.get("logs") is not True or arguments.ends_with:
        return None
    from cluster.system import SystemEntropy  # on use only: `exec` starts fast

    # Not by name: what a removed service left behind must not answer for the next one of its name.
    service_id = answer.get("service_id")
    if not isinstance(service_id, str) or _ID.fullmatch(service_id) is None:
        raise ValueError("the agent's answer is malformed; are both of one version?")
    directory: Path = arguments.run_dir.resolve() / "logs" / service_id
    # Never a name that was there before: the agent takes a dead keeper's socket away by its name.
    return directory / f"{SystemEntropy().token(16).hex()}.sock"


def _seconds(text: str) -> float:
    """Return "30s" or "2m" as seconds."""
    units = {"s": 1.0, "m": 60.0}
    unit = units.get(text[-1:], 0.0)
    if not unit or not text[:-1].isdigit():
        raise argparse.ArgumentTypeError("takes a number of seconds or minutes, such as 30s or 2m")
    return int(text[:-1]) * unit
