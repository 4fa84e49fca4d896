"""`strongroom-agent run`: run the agent until SIGTERM or SIGINT; mounts stay when it ends."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from agent.cli.exit_codes import OK, USAGE, fail

if TYPE_CHECKING:
    from agent.main import Agent
    from cluster.protocol.supervisor import Supervisor

_Error = TypeVar("_Error", bound=Exception)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `run`; they win over the file."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="the node's identity")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="sockets and kernel mounts")
    parser.add_argument("--mounts", choices=("kernel", "given"), help="who mounts the tmpfs")
    parser.add_argument(
        "--given-root", type=Path, metavar="DIR", help="where given volumes are, one a service"
    )
    parser.add_argument(
        "--socket-root", type=Path, metavar="DIR", help="where their sockets go, one a service"
    )
    parser.add_argument(
        "--manager",
        action="append",
        metavar="HOST:PORT",
        help="a manager's session listener (repeatable; default: what the managers say)",
    )
    parser.add_argument(
        "--metrics-listen", metavar="HOST:PORT", help="metrics, on loopback only (default: none)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the agent; return 0 after a clean stop."""
    import asyncio

    import structlog

    from agent.config import Overrides, load, supervisor
    from agent.hardening import harden_process
    from agent.main import Agent
    from agent.mounts import MountKind
    from cluster.protocol.errors import ClusterError, InvalidRequest
    from cluster.system import SystemClock, SystemEntropy

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    overrides = Overrides(
        data_dir=arguments.data_dir,
        run_dir=arguments.run_dir,
        mounts=MountKind(arguments.mounts) if arguments.mounts else None,
        given_root=arguments.given_root,
        socket_root=arguments.socket_root,
        managers=tuple(arguments.manager) if arguments.manager else None,
        metrics_listen=arguments.metrics_listen,
    )
    checks = harden_process()
    try:
        agent = Agent(load(overrides, arguments.config), SystemClock(), SystemEntropy(), checks)
    except InvalidRequest as error:
        return fail(error.message, USAGE)
    code = OK
    try:
        asyncio.run(_until_signalled(agent, supervisor()))
    except* ClusterError as group:
        code = fail(_first(group, ClusterError).message)
    except* OSError as group:
        failure = _first(group, OSError)
        code = fail(f"{failure.filename or 'agent'}: {failure.strerror}")
    return code


def _first(group: BaseExceptionGroup[_Error], kind: type[_Error]) -> _Error:
    """Return the first error of `group`, however deep it lies."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, kind)  # noqa: S101  # `except*` sorted them
    return found


async def _until_signalled(agent: "Agent", supervisor: "Supervisor") -> None:
    import asyncio
    import signal

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    telling = asyncio.create_task(supervisor.run(agent.state), name="supervisor")
    try:
        await agent.run(stop)
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
