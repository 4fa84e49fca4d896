"""A service is told of new files: by a signal, or by a command that is the service."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from agent.config import AgentConfig
from cluster.protocol.wire import ServiceAssignment
from tests.simulation.naive_manager import History, service
from tests.simulation.running_agent import enrol, running, until
from tests.simulation.served_manager import ServedManager, served
from tests.support.authority import ClusterAuthority
from tests.support.mounts import mounts_taken_away, reachable_directory
from tests.support.node import finished

pytestmark = pytest.mark.needs_root

RED, UID = "id-red", 61_001
# Not HUP: a shell that was started with a signal ignored, as by nohup, cannot trap it.
WAITS_FOR_USR1 = "trap 'cat /run/secrets/a; exit 7' USR1; sleep 60 & echo ready; wait"


@pytest.fixture
def config(tmp_path: Path) -> Iterator[AgentConfig]:
    with reachable_directory() as run_dir, mounts_taken_away(run_dir):
        yield AgentConfig(data_dir=tmp_path / "data", run_dir=run_dir)


@asynccontextmanager
async def placed(config: AgentConfig, red: ServiceAssignment) -> AsyncIterator[ServedManager]:
    history = History()
    history.commit({RED: red})
    async with served(ServedManager("m1", history, ClusterAuthority())) as manager:
        enrol(config, manager)
        async with running(config):
            await until(lambda: bool(manager.core.acks))
            yield manager


async def start(config: AgentConfig, *command: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    program = [sys.executable, "-m", "agent.cli.main", "exec", "--service", "red"]
    program += ["--run-dir", str(config.run_dir), "--", *command]
    return await asyncio.create_subprocess_exec(*program, stdin=pipe, stdout=pipe, stderr=pipe)


async def rotate(manager: ServedManager, red: ServiceAssignment) -> None:
    files = service("red", ("a", 2), uid=UID).files
    manager.core.history.commit({RED: msgspec.structs.replace(red, files=files)})
    await manager.push()
    await until(lambda: len(manager.core.acks) == 2)


async def test_signal_reaches_the_program_after_its_files_changed(config: AgentConfig) -> None:
    red = msgspec.structs.replace(service("red", ("a", 1), uid=UID), on_change_signal="USR1")
    async with placed(config, red) as manager:
        process = await start(config, "sh", "-c", WAITS_FOR_USR1)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        await rotate(manager, red)
        done = await finished(process)
    assert (done.code, done.stdout) == (7, "value of a version 2")


async def test_command_runs_as_the_service_and_sees_the_new_files(config: AgentConfig) -> None:
    with reachable_directory() as shared:
        shared.chmod(0o777)
        seen = shared / "seen"
        script = f"id -u > {seen}.new; cat /run/secrets/a >> {seen}.new; mv {seen}.new {seen}"
        red = msgspec.structs.replace(
            service("red", ("a", 1), uid=UID), on_change_command=("sh", "-c", script)
        )
        async with placed(config, red) as manager:
            assert not seen.exists()  # the first mount is no change
            await rotate(manager, red)
            await until(seen.exists)
            assert seen.read_text() == f"{UID}\nvalue of a version 2"


async def test_command_that_hangs_is_ended_and_the_agent_goes_on(config: AgentConfig) -> None:
    with reachable_directory() as shared:
        shared.chmod(0o777)
        began = shared / "began"
        red = msgspec.structs.replace(
            service("red", ("a", 1), uid=UID),
            on_change_command=("sh", "-c", f"echo $$ > {began}; exec sleep 3600"),
            on_change_timeout_s=1.0,
        )
        async with placed(config, red) as manager:
            await rotate(manager, red)
            await until(began.exists)
            await until(lambda: not any(_is_sleeping(p) for p in Path("/proc").iterdir()))
            assert len(manager.sessions) == 1


def _is_sleeping(process: Path) -> bool:
    try:
        status = (process / "status").read_text()
        return f"Uid:\t{UID}\t" in status and b"3600" in (process / "cmdline").read_bytes()
    except OSError:
        return False
