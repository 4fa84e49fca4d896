"""Running a hook that is a program: values by standard input, nothing else in, nothing out.

No shell, an empty environment but PATH, no inherited descriptor, output thrown away: it could hold
a value. The exit status is the whole answer. What still runs when the time is up is killed with its
group, and the program dies with the manager.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from cluster.hook import launch
from cluster.protocol.errors import HookFailed

_END_S: Final = 5.0


async def run_program(path: Path, message: bytes, timeout_s: float) -> None:
    """Run a hook with a message on its standard input; status 0 is yes. Raises HookFailed."""
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise HookFailed(f"the hook could not be started: {error.strerror}") from None
    try:
        async with asyncio.timeout(timeout_s):
            # A hook that does not read gets no more than its pipe holds; what counts is its answer.
            await process.communicate(message)
    except TimeoutError:
        raise HookFailed(f"the hook did not end within {timeout_s:g} s; it was killed") from None
    finally:
        await _end(process)
    _judge(process.returncode)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Make sure that nothing of the hook's group goes on."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_S):
            await process.wait()


def _judge(status: int | None) -> None:
    match status:
        case 0:
            return
        case launch.NOT_STARTED:
            raise HookFailed(
                "the hook could not be started; look at its first line, its interpreter, and "
                "whether its file system is mounted noexec"
            )
        case None:
            raise HookFailed("the hook cannot be killed; look at it on the manager")
        case _ if status < 0:
            raise HookFailed(f"the hook was ended by signal {-status}")
        case _:
            raise HookFailed(f"the hook ended with exit status {status}")
