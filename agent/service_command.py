"""Commands that run as a service: one guarded process each, gone when its time is over.

Owns the process and its limits. A command runs through `strongroom-agent exec`, so it has exactly
the service's rights and view, and only what the caller names on its command line. Its output is
thrown away: it could hold a value. Source: DESIGN 6.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

LONGEST_S = 300.0
_SHORTEST_S = 0.1
_KILL_TIMEOUT_S = 5.0


class ServiceCommands:
    """Runs commands as services. Whoever calls `run` owns the waiting."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._supervisors: set[int] = set()

    @property
    def supervisors(self) -> Collection[int]:
        """The pids of the supervisors that run now: what is under them is ours, no service's."""
        return self._supervisors

    async def run(self, service: str, command: Sequence[str], timeout_s: float) -> int:
        """Run a command as a service and return its exit code, as a shell would.

        Raises TimeoutError when its time is over. However this ends, the command is gone
        afterwards.
        """
        process = await asyncio.create_subprocess_exec(
            *self._program(service),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        self._supervisors.add(process.pid)
        try:
            async with asyncio.timeout(min(max(timeout_s, _SHORTEST_S), LONGEST_S)):
                return await process.wait()
        finally:
            await _end(process)
            self._supervisors.discard(process.pid)

    def _program(self, service: str) -> list[str]:
        program = [sys.executable, "-I", "-m", "agent.cli.main", "exec"]
        # A service outlives the agent; what the agent itself runs in it must not.
        program += ["--ends-with", str(os.getpid())]
        return [*program, "--service", service, "--run-dir", str(self._run_dir), "--"]


async def _end(process: asyncio.subprocess.Process) -> None:
    """Make sure the command is gone, with all it started.

    The first of its pid namespace is killed, and the supervisor reaps it, which the kernel allows
    only when the whole namespace is gone. A supervisor that is killed itself leaves that to whoever
    is pid 1 here, and in a container that may be an agent, which would never reap it.
    """
    if process.returncode is None and _kill_children(process.pid):
        await _wait(process)
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await _wait(process)


async def _wait(process: asyncio.subprocess.Process) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_KILL_TIMEOUT_S):
            await process.wait()


def _kill_children(pid: int) -> bool:
    """Kill the children of one of our processes; return whether there was one."""
    killed = False
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            pidfd = os.pidfd_open(int(child))
            try:
                # Looked at through the pidfd's life: a pid that was given to another is let be.
                lines = Path(f"/proc/{child}/status").read_text().splitlines()
                if f"PPid:\t{pid}" in lines:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    killed = True
            finally:
                os.close(pidfd)
    return killed
