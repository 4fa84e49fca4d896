"""`strongroom-agent join` and `run` as real processes."""

import asyncio
import json
import signal
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from agent import local_call
from cluster.pki.join_token import JoinToken
from tests.simulation.naive_manager import History, service
from tests.simulation.running_agent import until
from tests.simulation.served_manager import ServedManager, served
from tests.support.authority import ClusterAuthority
from tests.support.entropy import SeededEntropy
from tests.support.mounts import mounts_taken_away, reachable_directory
from tests.support.node import Done, finished, start_agent_command

pytestmark = pytest.mark.needs_root

RED = "id-red"


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with reachable_directory() as directory, mounts_taken_away(directory):
        yield directory


@pytest.fixture
async def manager() -> AsyncIterator[ServedManager]:
    history = History()
    history.commit({RED: service("red", ("a", 1), uid=61_001)})
    async with served(ServedManager("m1", history, ClusterAuthority())) as running:
        yield running


@pytest.fixture
def token(manager: ServedManager, entropy: SeededEntropy) -> str:
    return JoinToken.new(manager.authority.bundle().root_digest(), entropy).format()


@asynccontextmanager
async def running(data: Path, run_dir: Path) -> AsyncIterator[list[Done]]:
    """Run the agent's process while the block lasts; the list gets its end."""
    process = await start_agent_command("run", "--data-dir", str(data), "--run-dir", str(run_dir))
    ended: list[Done] = []
    try:
        yield ended
    finally:
        process.send_signal(signal.SIGTERM)
        ended.append(await finished(process))


async def join(manager: ServedManager, data: Path, token: str) -> Done:
    arguments = ["--manager", manager.join_address, "--name", "node-one", "--data-dir", str(data)]
    process = await start_agent_command("join", *arguments)
    return await finished(process, token.encode() + b"\n")


async def test_join_prints_the_id_and_is_safe_to_repeat(
    manager: ServedManager, tmp_path: Path, token: str
) -> None:
    for _ in range(2):
        done = await join(manager, tmp_path / "data", token)
        assert (done.code, done.stdout, done.stderr) == (0, "node1\n", "")
    assert len(manager.joins) == 1
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


async def test_join_refuses_what_is_no_token_without_showing_it(
    manager: ServedManager, tmp_path: Path, token: str
) -> None:
    done = await join(manager, tmp_path / "data", token[:-1])
    assert (done.code, done.stdout) == (1, "")
    assert "SRTKN-1-" in done.stderr
    assert token[-20:-1] not in done.stderr


async def test_run_before_join_says_what_to_do(tmp_path: Path, run_dir: Path) -> None:
    arguments = ["--data-dir", str(tmp_path / "data"), "--run-dir", str(run_dir)]
    done = await finished(await start_agent_command("run", *arguments))
    assert done.code == 1
    assert "strongroom-agent join" in done.stderr


async def test_run_serves_until_sigterm_and_leaves_the_mounts(
    manager: ServedManager, tmp_path: Path, run_dir: Path, token: str
) -> None:
    await join(manager, tmp_path / "data", token)
    async with running(tmp_path / "data", run_dir) as ended:
        await until(lambda: bool(manager.core.acks))
        status = json.loads(
            await asyncio.to_thread(local_call.call, run_dir / "control.sock", "status")
        )
    assert (status["name"], status["services"]) == ("node-one", ["red"])
    assert status["checks"]["core dumps"] == "secure"
    (done,) = ended
    assert done.code == 0
    assert (run_dir / "secrets" / "red" / "a").read_bytes() == b"value of a version 1"
    assert "value of a" not in done.stderr


async def test_command_on_change_works_from_a_hardened_agent(
    manager: ServedManager, tmp_path: Path, run_dir: Path, token: str
) -> None:
    """The agent's own limits do not keep the service's command from running."""
    await join(manager, tmp_path / "data", token)
    with reachable_directory() as shared:
        shared.chmod(0o777)
        seen = shared / "seen"
        red = msgspec.structs.replace(
            service("red", ("a", 1), uid=61_001), on_change_command=("touch", str(seen))
        )
        manager.core.history.commit({RED: red})
        manager.core.view = manager.core.history.newest
        async with running(tmp_path / "data", run_dir) as ended:
            await until(lambda: bool(manager.core.acks))
            files = service("red", ("a", 2), uid=61_001).files
            manager.core.history.commit({RED: msgspec.structs.replace(red, files=files)})
            await manager.push()
            await until(seen.exists)
    (done,) = ended
    assert done.code == 0, done.stderr
