"""Telling a service that its files changed: a signal to its process, or a command with its
identity.

Owns finding the process that `exec` started, and when a command runs; it decides nothing about
files. Kernel mounts only: with given volumes services live where this agent has no rights. Source:
DESIGN 6.
"""

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from agent.service_command import ServiceCommands
from cluster.protocol.wire import ServiceAssignment

log = structlog.get_logger(__name__)

_FIRST_PID = "2"
"""The number of the program in its pid namespace: `agent.launch` forks it as pid 1's first child.
"""


class OnChange:
    """Runs the reactions of all services, one at a time for each."""

    def __init__(self, commands: ServiceCommands, group: asyncio.TaskGroup) -> None:
        self._commands = commands
        self._group = group
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task[None]] = set()

    def notify(self, service: ServiceAssignment, mount_path: Path) -> None:
        """React to new files in `mount_path`, in a task of its own."""
        if service.on_change_signal or service.on_change_command:
            task = self._group.create_task(self._react(service, mount_path))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """Give up what still runs."""
        for task in list(self._tasks):
            task.cancel()

    async def _react(self, service: ServiceAssignment, mount_path: Path) -> None:
        async with self._turns[service.service_id]:
            if service.on_change_signal:
                _signal(service, mount_path, self._commands.supervisors)
            if service.on_change_command:
                await self._command(service)

    async def _command(self, service: ServiceAssignment) -> None:
        timeout_s = service.on_change_timeout_s
        try:
            code = await self._commands.run(service.name, service.on_change_command, timeout_s)
        except TimeoutError:
            log.warning("on_change.timed_out", service=service.name)
        else:
            level = log.info if code == 0 else log.warning
            level("on_change.command_ended", service=service.name, exit_code=code)


def _signal(service: ServiceAssignment, mount_path: Path, ours: Collection[int]) -> None:
    try:
        number = signal.Signals[f"SIG{service.on_change_signal.removeprefix('SIG')}"]
    except KeyError:
        log.warning("on_change.unknown_signal", service=service.name)
        return
    told = 0
    for pidfd in service_processes(mount_path, service.uid, ours):
        with suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(pidfd, number)
            told += 1
    log.info("on_change.signalled", service=service.name, signal=number.name, processes=told)


def service_processes(mount_path: Path, uid: int, ours: Collection[int] = ()) -> Iterator[int]:
    """Yield a pidfd for each program that `exec` started on this mount; it is closed afterwards.

    A process is known by what the kernel says: its uid, that it is the first child in a pid
    namespace of its own, and that its /run/secrets is this very tmpfs. The pidfd is opened before
    it is looked at, so a reused pid is never signalled. Commands whose supervisor is one of `ours`
    are left out: a signal is not for them, and they keep no service running.
    """
    device = mount_path.stat().st_dev
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError), _opened(int(entry.name)) as pidfd:
            if (
                _is_program(entry, uid)
                and (entry / "root/run/secrets").stat().st_dev == device
                and _supervisor_of(entry) not in ours
            ):
                yield pidfd


@contextmanager
def _opened(pid: int) -> Iterator[int]:
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def _is_program(process: Path, uid: int) -> bool:
    facts = _facts(process)
    namespaced = facts.get("NSpid:", [])
    return facts.get("Uid:", [])[:1] == [str(uid)] and namespaced[1:][-1:] == [_FIRST_PID]


def _supervisor_of(program: Path) -> int:
    """Return the pid of what started the program's pid 1, see `agent.launch`."""
    init = program.parent / _facts(program)["PPid:"][0]
    return int(_facts(init)["PPid:"][0])


def _facts(process: Path) -> dict[str, list[str]]:
    lines = (line.split() for line in (process / "status").read_text().splitlines())
    return {words[0]: words[1:] for words in lines if words}
