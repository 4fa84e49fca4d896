"""Together: what comes at once goes at once, each has its own outcome, nobody waits in vain."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.dispatcher.together import AT_ONCE, Together
from cluster.protocol.errors import PermissionDenied, StaleVersion, Unavailable


class Work:
    """Notes each portion; refuses what it is told to; may be held up."""

    def __init__(self, *refused: str) -> None:
        self.portions: list[list[str]] = []
        self.refused = refused
        self.fails_with: BaseException | None = None
        self.flowing = asyncio.Event()
        self.flowing.set()

    async def __call__(self, items: Sequence[str]) -> Sequence[Exception | None]:
        self.portions.append(list(items))
        await self.flowing.wait()
        if self.fails_with is not None:
            raise self.fails_with
        return [PermissionDenied() if item in self.refused else None for item in items]


async def asked(together: Together[str], *items: str) -> list[BaseException | None]:
    """Ask for all at once; each is its own key and touches itself alone."""
    asking = (together.do(item, item, frozenset({item})) for item in items)
    return await asyncio.gather(*asking, return_exceptions=True)


async def test_what_is_asked_at_once_is_one_portion() -> None:
    work = Work()
    assert await asked(Together(work, 10), "a", "b", "c") == [None] * 3
    assert work.portions == [["a", "b", "c"]]


async def test_a_portion_touches_so_much_at_most_and_shares_what_is_the_same() -> None:
    work = Work()
    await asked(Together(work, 2), "a", "b", "c")
    assert work.portions == [["a", "b"], ["c"]]
    together = Together(work, 3)
    work.portions.clear()
    shared = (together.do(one, one, frozenset({one, "service"})) for one in ("a", "b", "c"))
    await asyncio.gather(*shared)
    assert work.portions == [["a", "b"], ["c"]]


async def test_what_is_too_much_for_a_portion_goes_alone() -> None:
    work = Work()
    together = Together(work, 2)
    large = together.do("large", "large", frozenset("xyz"))
    await asyncio.gather(together.do("a", "a", frozenset("a")), large)
    assert work.portions == [["a"], ["large"]]


async def test_no_portion_has_a_key_twice() -> None:
    work = Work()
    together = Together(work, 10)
    keys = {"first": "node", "second": "node", "other": "other"}
    await asyncio.gather(*(together.do(i, k, frozenset({i})) for i, k in keys.items()))
    assert work.portions == [["first", "other"], ["second"]]


async def turns(number: int = 20) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_what_has_a_key_that_is_under_way_waits_and_goes_next() -> None:
    """Another worker would carry it out beside it, and either may come last."""
    work = Work()
    together = Together(work, 1)
    work.flowing.clear()
    asking = [
        asyncio.create_task(together.do(item, key, frozenset({item})))
        for item, key in {"first": "node", "second": "node", "third": "node", "other": "o"}.items()
    ]
    await turns()
    assert work.portions == [["first"], ["other"]]
    work.flowing.set()
    await asyncio.gather(*asking)
    assert work.portions == [["first"], ["other"], ["second"], ["third"]]


@pytest.mark.parametrize("failure", [Unavailable("no quorum"), asyncio.CancelledError()])
async def test_what_waited_for_a_key_is_served_though_what_it_waited_for_failed(
    failure: BaseException,
) -> None:
    portions: list[list[str]] = []
    flowing = asyncio.Event()

    async def work(items: Sequence[str]) -> Sequence[Exception | None]:
        portions.append(list(items))
        await flowing.wait()
        if "first" in items:
            raise failure
        return [None] * len(items)

    together = Together(work, 1)
    first = asyncio.create_task(together.do("first", "node", frozenset({"first"})))
    await turns()
    second = asyncio.create_task(together.do("second", "node", frozenset({"second"})))
    await turns()
    assert portions == [["first"]]
    flowing.set()
    await asyncio.wait([first])
    assert first.cancelled() or first.exception() is failure
    async with asyncio.timeout(30):
        await second
    assert portions == [["first"], ["second"]]


async def test_each_gets_its_own_outcome() -> None:
    first, second = await asked(Together(Work("a"), 10), "a", "b")
    assert isinstance(first, PermissionDenied)
    assert second is None


async def test_a_failure_befalls_all_of_its_portion_and_none_after() -> None:
    work = Work()
    together = Together(work, 2)
    work.fails_with = Unavailable("no quorum")
    assert [type(one) for one in await asked(together, "a", "b")] == [Unavailable] * 2
    work.fails_with = None
    assert await asked(together, "a") == [None]


async def test_what_one_may_bring_upon_all_befalls_that_one_alone() -> None:
    portions: list[list[str]] = []

    async def work(items: Sequence[str]) -> Sequence[Exception | None]:
        portions.append(list(items))
        if "restless" in items:
            raise StaleVersion
        return [PermissionDenied() if item == "denied" else None for item in items]

    together = Together(work, 10, (StaleVersion,))
    wrong = await asked(together, "a", "restless", "denied")
    assert [type(one) for one in wrong] == [type(None), StaleVersion, PermissionDenied]
    assert portions == [["a", "restless", "denied"], ["a"], ["restless"], ["denied"]]


async def test_who_gave_up_is_left_out_and_the_others_are_served() -> None:
    work = Work()
    together = Together(work, 1)
    work.flowing.clear()
    busy = [asyncio.create_task(together.do(f"{n}", n, frozenset({str(n)}))) for n in range(9)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(work.portions) == AT_ONCE
    busy[0].cancel()
    busy[-1].cancel()
    await asyncio.sleep(0)
    work.flowing.set()
    results = await asyncio.gather(*busy, return_exceptions=True)
    assert results[1:-1] == [None] * 7
    assert ["8"] not in work.portions
    assert len(work.portions) == 8


async def test_so_many_portions_are_under_way_at_once() -> None:
    work = Work()
    together = Together(work, 1)
    work.flowing.clear()
    asking = asyncio.create_task(asked(together, *(str(number) for number in range(9))))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(work.portions) == AT_ONCE
    work.flowing.set()
    assert await asking == [None] * 9


async def test_nobody_waits_for_a_worker_that_was_ended() -> None:
    work = Work()
    together = Together(work, 2)
    work.fails_with = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await together.do("a", "a", frozenset("a"))


async def at_once(items: Sequence[str]) -> Sequence[Exception | None]:
    """Work that never suspends, as an update that finds nothing to write."""
    return [None] * len(items)


async def asked_in_turns(turns: Sequence[int]) -> int:
    """Ask from as many tasks, each after so many turns of the loop; return how many wait on."""
    together = Together(at_once, 10)

    async def ask(number: int, after: int) -> None:
        for _ in range(after):
            await asyncio.sleep(0)
        await together.do(str(number), number, frozenset({str(number)}))

    asking = [asyncio.create_task(ask(number, after)) for number, after in enumerate(turns)]
    for _ in range(max(turns, default=0) + 10):
        await asyncio.sleep(0)
    waiting = [task for task in asking if not task.done()]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    return len(waiting)


async def test_who_asks_while_the_last_workers_end_is_served() -> None:
    together = Together(at_once, 10)
    late: list[asyncio.Task[None]] = []

    async def ask(item: str) -> None:
        await together.do(item, item, frozenset({item}))

    def ask_late() -> None:
        late.append(asyncio.create_task(ask("late")))

    early = [asyncio.create_task(ask(str(number))) for number in range(AT_ONCE)]
    asyncio.get_running_loop().call_soon(ask_late)
    await asyncio.gather(*early)
    for _ in range(10):
        await asyncio.sleep(0)
    assert late[0].done()


@settings(max_examples=40)
@given(st.lists(st.integers(0, 6), max_size=12))
def test_nobody_is_left_whatever_turn_it_asks_in(turns: list[int]) -> None:
    assert asyncio.run(asked_in_turns(turns)) == 0


async def test_one_that_is_cancelled_before_its_first_step_keeps_nobody_from_a_worker() -> None:
    together = Together(at_once, 10)
    asking = asyncio.create_task(together.do("a", "a", frozenset("a")))
    await asyncio.sleep(0)
    (worker,) = (task for task in asyncio.all_tasks() if task.get_name() == "together")
    worker.cancel()
    await asyncio.sleep(0)
    assert await asked(together, "b") == [None]
    await asking
