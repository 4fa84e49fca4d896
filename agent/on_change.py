"""Telling a service that its files changed: a signal to its process, or a command with its
identity.

Owns finding the process that `exec` started and the limits of a command; it decides nothing about
files. A command runs through `strongroom-agent exec`, so it has exactly the service's rights and
view. Its output is thrown away: it could hold a value. Kernel mounts only: with given volumes
services live where this agent has no rights. Source: DESIGN 6.
"""

import asyncio
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from cluster.protocol.wire import ServiceAssignment

log = structlog.get_logger(__name__)

LONGEST_S = 300.0
_KILL_TIMEOUT_S = 5.0
_FIRST_PID = "2"
"""The number of the program in its pid namespace: `agent.launch` forks it as pid 1's first child.
"""


class OnChange:
    """Runs the reactions of all services, one at a time for each."""

    def __init__(self, run_dir: Path, group: asyncio.TaskGroup) -> None:
        self._run_dir = run_dir
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
                _signal(service, mount_path)
            if service.on_change_command:
                await self._command(service)

    async def _command(self, service: ServiceAssignment) -> None:
        program = [sys.executable, "-I", "-m", "agent.cli.main", "exec"]
        program += ["--service", service.name, "--run-dir", str(self._run_dir), "--"]
        process = await asyncio.create_subprocess_exec(
            *program,
            *service.on_change_command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            cwd="/",
        )
        try:
            async with asyncio.timeout(min(max(service.on_change_timeout_s, 0.1), LONGEST_S)):
                code = await process.wait()
        except TimeoutError:
            log.warning("on_change.timed_out", service=service.name)
        else:
            level = log.info if code == 0 else log.warning
            level("on_change.command_ended", service=service.name, exit_code=code)
        finally:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Make sure the command is gone; its pid namespace goes with its supervisor."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(_KILL_TIMEOUT_S):
                await process.wait()


def _signal(service: ServiceAssignment, mount_path: Path) -> None:
    try:
        number = signal.Signals[f"SIG{service.on_change_signal.removeprefix('SIG')}"]
    except KeyError:
        log.warning("on_change.unknown_signal", service=service.name)
        return
    told = 0
    for pidfd in service_processes(mount_path, service.uid):
        with suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(pidfd, number)
            told += 1
    log.info("on_change.signalled", service=service.name, signal=number.name, processes=told)


def service_processes(mount_path: Path, uid: int) -> Iterator[int]:
    """Yield a pidfd for each program that `exec` started on this mount; it is closed afterwards.

    A process is known by what the kernel says: its uid, that it is the first child in a pid
    namespace of its own, and that its /run/secrets is this very tmpfs. The pidfd is opened before
    it is looked at, so a reused pid is never signalled.
    """
    device = mount_path.stat().st_dev
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError), _opened(int(entry.name)) as pidfd:
            if _is_program(entry, uid) and (entry / "root/run/secrets").stat().st_dev == device:
                yield pidfd


@contextmanager
def _opened(pid: int) -> Iterator[int]:
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def _is_program(process: Path, uid: int) -> bool:
    lines = (line.split() for line in (process / "status").read_text().splitlines())
    facts = {words[0]: words[1:] for words in lines if words}
    namespaced = facts.get("NSpid:", [])
    return facts.get("Uid:", [])[:1] == [str(uid)] and namespaced[1:][-1:] == [_FIRST_PID]
