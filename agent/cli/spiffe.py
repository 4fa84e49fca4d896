"""`strongroom-agent spiffe`: the SPIFFE Workload API for one service, until SIGTERM or SIGINT."""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from agent import linux
from agent.cli.exit_codes import OK, USAGE, code_of, fail
from agent.local_call import Refused, call

DEFAULT_RUN_DIRECTORY = Path("/run/strongroom-agent")
SOCKET = "spiffe.sock"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the files are, where the socket goes, and whose it is; None: whoever runs this."""

    files: Path
    socket: Path
    owner: tuple[int, int] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `spiffe`."""
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument(
        "--service", metavar="NAME", help="a service of this node; needs root, like the agent"
    )
    whose.add_argument(
        "--files", type=Path, metavar="DIR", help="where the service's files are: inside it"
    )
    parser.add_argument("--run-dir", type=Path, default=DEFAULT_RUN_DIRECTORY, metavar="DIR")
    parser.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        help="where to listen (default: spiffe.sock beside the service's workload socket)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to stop; return 0 after a clean stop."""
    try:
        place = _place(arguments)
    except Refused as refusal:
        return fail(str(refusal), code_of(refusal.code))
    except (OSError, ValueError) as error:
        return fail(f"{error}; is the agent running with --run-dir {arguments.run_dir}?")
    if place is None:
        return fail("--files goes with --socket", USAGE)
    return _serve(place)


def _place(arguments: argparse.Namespace) -> _Place | None:
    if arguments.files is not None:
        if arguments.socket is None:
            return None
        return _Place(arguments.files, arguments.socket, None)
    answer = json.loads(call(arguments.run_dir / "control.sock", "service", arguments.service))
    match answer:
        case {
            "uid": int(uid),
            "gid": int(gid),
            "mount_path": str(mount_path),
            "workload_socket": str(workload_socket),
        }:
            beside = Path(workload_socket).parent / SOCKET
            return _Place(Path(mount_path), arguments.socket or beside, (uid, gid))
        case _:
            raise ValueError("the agent's answer is not understood")


def _serve(place: _Place) -> int:
    import asyncio

    import structlog

    from agent.hardening import harden_process
    from cluster.protocol.errors import ClusterError

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    harden_process()
    try:
        asyncio.run(_until_signalled(place))
    except ClusterError as error:
        return fail(error.message)
    except OSError as error:
        return fail(f"{error.filename or place.socket}: {error.strerror}")
    return OK


async def _until_signalled(place: _Place) -> None:
    import asyncio
    import signal

    from agent.spiffe.server import serve

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(place.files, place.socket, stop, lambda: _hand_over(place))


def _hand_over(place: _Place) -> None:
    """Give the socket to the service and become it: what it may read is all that is needed now."""
    if place.owner is None or place.owner[0] == os.geteuid():
        return
    uid, gid = place.owner
    os.chown(place.socket, uid, gid)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    # The kernel's default for a process that changed its uid may allow more.
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
