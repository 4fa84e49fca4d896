"""What is tried with a cluster of either kind: the same for both, told in the same words.

Each check returns what was observed, by name. `patience_s` is how long nobody answers before the
rest is given up: long for a cluster that is known to answer, and some elections' worth for one that
is known not to.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

LIMIT_S = 240.0
"""A check that takes longer is stuck."""
TOGETHER = 5
LARGE_CHARACTERS = 70_000
SIDES = "sides that acknowledge a write"
Observed = dict[str, object]


class Cluster(Protocol):
    """What both kinds of cluster can do. Waits end when the caller gives up."""

    @property
    def nodes(self) -> Collection[str]:
        """The names of all nodes."""
        ...

    async def lead(self) -> str:
        """Return who leads, as soon as somebody does."""
        ...

    async def put(self, key: str, value: str, among: Collection[str] = ()) -> str:
        """Write through one of some nodes; return who acknowledged it."""
        ...

    async def get(self, key: str) -> str | None:
        """Return a value as the cluster reads it."""
        ...

    async def settle(self) -> None:
        """Return once all nodes follow one leader."""
        ...

    def cut(self, one: Collection[str], other: Collection[str]) -> None:
        """Let nothing pass between two groups of nodes."""
        ...

    def heal(self) -> None:
        """Let everything pass."""
        ...


Start = Callable[[int], AbstractAsyncContextManager[Cluster]]


async def split(start: Start, patience_s: float, *, goes_on: bool = False) -> Observed:
    """Four nodes, cut into two and two. A majority of four is three.

    `goes_on`: it is known to write again once the cut has healed, and is asked to.
    """
    async with start(4) as cluster, asyncio.timeout(LIMIT_S):
        leader = await cluster.lead()
        one = [leader, next(name for name in cluster.nodes if name != leader)]
        other = [name for name in cluster.nodes if name not in one]
        cluster.cut(one, other)
        keys = {"written-on-one": one, "written-on-other": other}
        acknowledged = await _acknowledged(cluster, keys, patience_s)
        cluster.heal()
        if goes_on:
            await cluster.put("written-after", "value")
        if acknowledged:
            await cluster.settle()
        readable = [key for key in acknowledged if await cluster.get(key) is not None]
    return {
        "sides": f"{' '.join(one)} | {' '.join(other)}",
        SIDES: len(acknowledged),
        "acknowledged writes that are gone after healing": len(acknowledged) - len(readable),
        "a write after healing is acknowledged": True if goes_on else "not tried",
    }


async def together(start: Start, patience_s: float) -> Observed:
    """Five writes at once, each under a name of its own, with no fault at all."""
    async with start(3) as cluster, asyncio.timeout(LIMIT_S):
        await cluster.put("before", "value")
        # Sent in one breath: nothing of the cluster's passes the relay meanwhile.
        leader = [await cluster.lead()]
        keys = {f"together-{number}": leader for number in range(TOGETHER)}
        acknowledged = await _acknowledged(cluster, keys, patience_s)
    return {f"acknowledged of {TOGETHER} writes at once": len(acknowledged)}


async def large(start: Start, patience_s: float) -> Observed:
    """A value that fits no datagram."""
    async with start(3) as cluster, asyncio.timeout(LIMIT_S):
        await cluster.put("small", "value")
        put = asyncio.create_task(cluster.put("large", "x" * LARGE_CHARACTERS))
        answered = await _ended({put}, patience_s)
        stored = await cluster.get("large")
    return {
        f"a value of {LARGE_CHARACTERS} characters is acknowledged": bool(answered),
        "it can be read": stored is not None,
    }


async def _acknowledged(
    cluster: Cluster, keys: Mapping[str, Collection[str]], patience_s: float
) -> list[str]:
    """Return the keys whose writes are acknowledged, of writes that are sent at once."""
    puts = {
        asyncio.create_task(cluster.put(key, "value", among)): key for key, among in keys.items()
    }
    return [puts[put] for put in await _ended(set(puts), patience_s)]


async def _ended(puts: "set[asyncio.Task[str]]", patience_s: float) -> "list[asyncio.Task[str]]":
    """Return the writes that were acknowledged; the others are given up once all is silent."""
    ended: set[asyncio.Task[str]] = set()
    pending = puts
    while pending:
        done, pending = await asyncio.wait(
            pending, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
        )
        ended |= done
        if not done:
            break
    for put in pending:
        put.cancel()
    if pending:
        await asyncio.wait(pending)
    return [put for put in puts if put in ended and put.result()]
