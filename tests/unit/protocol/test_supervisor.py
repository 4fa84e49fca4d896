"""What a supervisor is told, over a real datagram socket."""

import asyncio
import os
from pathlib import Path

import pytest

from cluster.protocol import supervisor
from cluster.protocol.supervisor import Supervisor
from tests.support.notified import Notified, notify_socket


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOOK_S", 0.005)


async def hear(told: Notified, *lines: str) -> None:
    async with asyncio.timeout(10):
        while any(  # noqa: ASYNC110  # a datagram socket wakes nobody here
            told.heard().count(line) < lines.count(line) for line in lines
        ):
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("abstract", [False, True])
async def test_readiness_is_told_once_and_a_state_when_it_changes(
    tmp_path: Path, abstract: bool
) -> None:
    states = [""]
    address = f"@strongroom-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with notify_socket(address) as told:
        running = asyncio.create_task(
            Supervisor.of({"NOTIFY_SOCKET": address}).run(lambda: states[-1])
        )
        await asyncio.sleep(0.05)
        assert told.heard() == []
        states.append("locked")
        await hear(told, "STATUS=locked")
        states.append("not ready:\n two\n lines")
        await hear(told, "STATUS=not ready: two lines")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert told.heard() == [
            "READY=1", "STATUS=locked", "STATUS=not ready: two lines", "STOPPING=1",
            "STATUS=stopping",
        ]  # fmt: skip


async def test_the_watchdog_is_fed_while_the_loop_turns(tmp_path: Path) -> None:
    environment = {
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "30000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    with notify_socket(tmp_path / "notify") as told:
        running = asyncio.create_task(Supervisor.of(environment).run(lambda: "serving"))
        await hear(told, *["WATCHDOG=1"] * 3)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    # A child must not speak for this process.
    assert environment == {}


@pytest.mark.parametrize(
    "environment",
    [
        {"WATCHDOG_USEC": "30000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "soon"},
        {},
    ],
)
async def test_a_watchdog_meant_for_another_is_not_fed(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with notify_socket(tmp_path / "notify") as told:
        named = {**environment, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        running = asyncio.create_task(Supervisor.of(named).run(lambda: "serving"))
        await hear(told, "READY=1")
        await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert "WATCHDOG=1" not in told.heard()


async def test_without_a_supervisor_or_after_its_end_nothing_fails(tmp_path: Path) -> None:
    Supervisor().tell("READY=1")
    Supervisor(str(tmp_path / "gone")).tell("READY=1")
