"""The engine seam over raftos, as far as its interface reaches: a name's value is set and read.

Generous to raftos on purpose: the whole store is one value, so that a transaction over several keys
is one write, and writes wait for each other here, because raftos loses answers when they do not.
What is left is what no code around it can make up: `NotExpressible` says what that is. Never used
by the product.
"""

# ruff: noqa: ARG002  # the seam names the arguments, whether something can be made of them or not

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from cluster.engine.limits import check_key, check_request_id, check_transaction
from cluster.engine.seam import (
    PAGE_SIZE,
    Absent,
    Cancelled,
    Committed,
    Compare,
    CompareFailed,
    EngineStatus,
    Entry,
    Held,
    Leadership,
    Operation,
    Outcome,
    OutcomeUnknown,
    Page,
    Put,
    WatchBatch,
)
from docs.lab.raftos.raftos_cluster import RaftosCluster

GIVE_UP_S = 8.0
_KEPT_REQUESTS = 64
Stored = dict[str, Any]
Result = TypeVar("Result")


class NotExpressible(Exception):  # noqa: N818  # a finding, no error
    """raftos has nothing that this could be made of."""


class RaftosEngine:
    """An `Engine` in one name of a cluster of raftos."""

    def __init__(self, cluster: RaftosCluster, name: str) -> None:
        self._cluster = cluster
        self._name = name
        self._lock = asyncio.Lock()

    async def transact(
        self, request_id: bytes, compares: Sequence[Compare], operations: Sequence[Operation]
    ) -> Outcome:
        """See `Engine.transact`."""
        check_transaction(request_id, compares, operations)
        if any(isinstance(compare, Held) for compare in compares):
            raise NotExpressible("duties")

        def change(stored: Stored) -> Outcome:
            settled = stored["requests"].get(request_id.hex())
            if settled is not None:
                return Committed(settled) if settled else CompareFailed(())
            current = [_entry(stored, compare.key) for compare in compares]
            if not all(map(_holds, compares, current)):
                return CompareFailed(tuple(current))
            return _apply(stored, request_id, operations)

        return await self._settle(change)

    async def cancel(self, request_id: bytes) -> Committed | Cancelled | OutcomeUnknown:
        """See `Engine.cancel`."""
        check_request_id(request_id)

        def change(stored: Stored) -> Committed | Cancelled:
            settled = stored["requests"].setdefault(request_id.hex(), 0)
            return Committed(settled) if settled else Cancelled()

        return await self._settle(change)

    async def read(self, key: bytes, *, linearizable: bool = True) -> Entry | None:
        """See `Engine.read`. What leads says what it has, whether it still leads or not."""
        check_key(key)
        return _entry(await self._load(), key)

    async def list_page(
        self,
        prefix: bytes,
        *,
        after: bytes | None = None,
        at_revision: int | None = None,
        limit: int = PAGE_SIZE,
        linearizable: bool = True,
    ) -> Page:
        """See `Engine.list_page`."""
        stored = await self._load()
        if at_revision not in {None, stored["revision"]}:
            raise NotExpressible("history")
        keys = sorted(bytes.fromhex(key) for key in stored["keys"])
        wanted = [key for key in keys if key.startswith(prefix) and key > (after or b"")]
        entries = [entry for key in wanted[:limit] if (entry := _entry(stored, key))]
        return Page(tuple(entries), stored["revision"], len(wanted) > limit)

    def watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[WatchBatch]:
        """See `Engine.watch`."""
        raise NotExpressible("a watch")

    async def barrier(self) -> int:
        """See `Engine.barrier`: as `read`, no more than what the leader has."""
        revision: int = (await self._load())["revision"]
        return revision

    async def campaign(self, name: str, holder: str, ttl_s: float) -> Leadership:
        """See `Engine.campaign`."""
        raise NotExpressible("duties")

    async def holders(self) -> dict[str, str]:
        """See `Engine.holders`."""
        raise NotExpressible("duties")

    async def compact(self, revision: int) -> None:
        """See `Engine.compact`."""
        raise NotExpressible("history")

    async def recover_space(self) -> None:
        """See `Engine.recover_space`."""
        raise NotExpressible("a quota")

    async def status(self) -> EngineStatus:
        """See `Engine.status`."""
        raise NotExpressible("a quota")

    async def close(self) -> None:
        """See `Engine.close`."""

    async def _load(self) -> Stored:
        async with asyncio.timeout(GIVE_UP_S):
            text = await self._cluster.get(self._name)
        stored: Stored = json.loads(text) if text else {"revision": 1, "keys": {}, "requests": {}}
        return stored

    async def _settle(self, change: Callable[[Stored], Result]) -> Result | OutcomeUnknown:
        """Change what is stored, one at a time even if who asked goes away meanwhile."""
        return await asyncio.shield(asyncio.create_task(self._change(change)))

    async def _change(self, change: Callable[[Stored], Result]) -> Result | OutcomeUnknown:
        async with self._lock:
            try:
                stored = await self._load()
                before = json.dumps(stored)
                result = change(stored)
                for old in list(stored["requests"])[:-_KEPT_REQUESTS]:
                    del stored["requests"][old]
                if json.dumps(stored) != before:
                    async with asyncio.timeout(GIVE_UP_S):
                        await self._cluster.put(self._name, json.dumps(stored))
            except TimeoutError:
                return OutcomeUnknown("raftos does not answer")
        return result


def _entry(stored: Stored, key: bytes) -> Entry | None:
    found = stored["keys"].get(key.hex())
    return Entry(key, bytes.fromhex(found[0]), found[1], found[2]) if found else None


def _holds(compare: Compare, current: Entry | None) -> bool:
    if isinstance(compare, Absent):
        return current is None
    return current is not None and current.mod_revision == compare.mod_revision


def _apply(stored: Stored, request_id: bytes, operations: Sequence[Operation]) -> Committed:
    stored["revision"] += 1
    revision = stored["revision"]
    for operation in operations:
        key = operation.key.hex()
        if isinstance(operation, Put):
            created = stored["keys"].get(key, (b"", revision, 0))[1]
            stored["keys"][key] = [operation.value.hex(), created, revision]
        else:
            stored["keys"].pop(key, None)
    stored["requests"][request_id.hex()] = revision
    return Committed(revision)
