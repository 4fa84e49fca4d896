"""A whole agent in the test's own loop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from agent.config import AgentConfig
from agent.identity import DataDirectory
from agent.main import Agent
from cluster.system import Clock, SystemClock, SystemEntropy
from tests.simulation.served_manager import ServedManager


def enrol(config: AgentConfig, manager: ServedManager) -> None:
    data = DataDirectory(config.data_dir)
    data.prepare()
    data.save_identity(manager.identity())


@asynccontextmanager
async def running(config: AgentConfig, clock: Clock | None = None) -> AsyncIterator[None]:
    stop = asyncio.Event()
    agent = Agent(config, clock or SystemClock(), SystemEntropy())
    task = asyncio.create_task(agent.run(stop))
    try:
        yield
        assert not task.done() or task.exception() is None
    finally:
        stop.set()
        await asyncio.wait_for(task, 30)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110  # nothing signals it
            await asyncio.sleep(0.02)
