"""One long piece of work at a time, which goes on when whoever asked for it goes away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from cluster.api.routes_admin import Step
from cluster.protocol.errors import Conflict

Tell = Callable[[str], None]
"""Is told each step."""


class Background:
    """Runs work under a lock that others share."""

    def __init__(self, turn: asyncio.Lock) -> None:
        self._turn = turn
        self._task: asyncio.Task[None] | None = None

    async def run(self, work: Callable[[Tell], Awaitable[None]]) -> AsyncIterator[Step]:
        """Yield the steps of `work` until it is done, and raise what it raises.

        Raises Conflict while other work of this kind is under way.
        """
        if self._task is not None and not self._task.done():
            raise Conflict("the engine is being changed; wait for that")
        said: asyncio.Queue[str] = asyncio.Queue()

        async def take_turn() -> None:
            async with self._turn:
                await work(said.put_nowait)

        task = self._task = asyncio.create_task(take_turn(), name="engine-change")
        while not (task.done() and said.empty()):
            next_word = asyncio.create_task(said.get())
            await asyncio.wait({task, next_word}, return_when=asyncio.FIRST_COMPLETED)
            if next_word.done():
                yield Step(next_word.result())
            else:
                next_word.cancel()
        task.result()
        yield Step(done=True)

    async def stop(self) -> None:
        """Cut the work short, as the end of the process would."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
