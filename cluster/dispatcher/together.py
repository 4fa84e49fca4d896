"""Does together what many sessions ask for at the same moment: one write for many nodes.

Owns who waits and how much goes into one portion; what is done with it is its owner's. A change
that concerns a thousand nodes wakes a thousand sessions; if each wrote for itself, most of the
processor's time would go into a thousand waits, and not into what is written. Nobody waits for
others to come: what is there when a worker is free goes, alone if it is alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

T = TypeVar("T")

AT_ONCE: Final = 3
"""Portions under way: one for each lane of the store, and one that is made ready meanwhile."""


@dataclass(frozen=True, slots=True, eq=False)
class _Asked(Generic[T]):
    item: T
    key: Hashable
    touches: frozenset[str]
    done: asyncio.Future[None]


@dataclass(slots=True)
class Together(Generic[T]):
    """Portions of what is asked for, each carried out by one call of `work`.

    `work` takes a portion and returns, for each of its items, what is wrong with it, or None; what
    it raises befalls them all, unless one of them alone may be the cause.
    """

    work: Callable[[Sequence[T]], Awaitable[Sequence[Exception | None]]]
    most: int
    """How many things one portion touches at most; an item that touches more goes alone."""
    apart: tuple[type[Exception], ...] = ()
    """What one item may bring upon the others: where `work` raises it for several, each is carried
    out once more by itself."""
    _asked: list[_Asked[T]] = field(default_factory=list)
    _under_way: set[Hashable] = field(default_factory=set)
    _workers: set[asyncio.Task[None]] = field(default_factory=set)

    async def do(self, item: T, key: Hashable, touches: frozenset[str]) -> None:
        """Return once `item` is done; raise what is wrong with it.

        Items of one key are carried out one after the other, as they were asked for: they would
        change the same records, and one that is decided again must not undo a later one. `touches`:
        all that it takes room in the portion for, which is shared where items touch the same.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(_Asked(item, key, touches, done))
        self._employ()
        await done

    def _employ(self) -> None:
        if len(self._workers) < AT_ONCE:
            # It starts in the loop's next turn: who was woken by the same change has asked by then.
            worker = asyncio.create_task(self._carry_out(), name="together")
            self._workers.add(worker)
            # For one that is cancelled before its first step; who runs leaves by itself.
            worker.add_done_callback(self._workers.discard)

    async def _carry_out(self) -> None:
        try:
            await self._portions()
        finally:
            # At once: whoever asks before the task's done callback must not count on this worker.
            if (worker := asyncio.current_task()) is not None:
                self._workers.discard(worker)

    async def _portions(self) -> None:
        while portion := self._take():
            try:
                outcomes = await self._outcomes([asked.item for asked in portion])
            except BaseException:
                for asked in portion:
                    asked.done.cancel()
                raise
            finally:
                self._under_way.difference_update(asked.key for asked in portion)
                if any(not asked.done.done() for asked in self._asked):
                    # What these keys held up: others found nothing to do, and this one may end.
                    self._employ()
            for asked, wrong in zip(portion, outcomes, strict=True):
                _tell(asked.done, wrong)

    async def _outcomes(self, items: Sequence[T]) -> Sequence[Exception | None]:
        try:
            return await self.work(items)
        except Exception as error:  # noqa: BLE001  # it is raised again, by each who asked
            if len(items) == 1 or not isinstance(error, self.apart):
                return [error] * len(items)
        async with asyncio.TaskGroup() as group:
            each = [group.create_task(self._outcomes([item])) for item in items]
        return [outcome for task in each for outcome in task.result()]

    def _take(self) -> list[_Asked[T]]:
        """Remove the next portion from what is asked for, in its order, and note its keys."""
        portion: list[_Asked[T]] = []
        left: list[_Asked[T]] = []
        touched: set[str] = set()
        for number, asked in enumerate(self._asked):
            if asked.done.done():
                continue  # whoever asked has given up
            if asked.key in self._under_way:
                left.append(asked)
                continue
            if portion and len(touched | asked.touches) > self.most:
                left += self._asked[number:]
                break
            portion.append(asked)
            self._under_way.add(asked.key)
            touched |= asked.touches
        self._asked = left
        return portion


def _tell(done: asyncio.Future[None], wrong: Exception | None) -> None:
    if done.done():
        return
    if wrong is None:
        done.set_result(None)
    else:
        done.set_exception(wrong)
        done.exception()  # looked at: nobody may be left to hear it
