"""Calls that insist: a transaction or a read is sent until it is answered, refused for good, or out
of time.

Owns resending, deadlines and the settling of outcomes; `etcd_transaction` translates. Everything
sent from here repeats safely: transactions are guarded by their request id. Time limits run on the
event loop's clock.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import grpc.aio

from cluster.engine import etcd_pb2 as pb
from cluster.engine.etcd_channel import RANGE, REQUEST, TXN, EtcdChannel, Fate, fate_of
from cluster.engine.etcd_lease import RollingLease
from cluster.engine.etcd_terms import NewTerm, TermWatch
from cluster.engine.etcd_transaction import recorded
from cluster.engine.seam import Cancelled, Committed, OutcomeUnknown
from cluster.protocol.errors import (
    ClusterError,
    Compacted,
    InvalidRequest,
    NoQuorum,
    StorageFull,
    TransactionTooLarge,
    Unavailable,
)
from cluster.system import Clock, Entropy

READ_GIVE_UP_S: Final = 5.0
RETRY_S: Final = (0.02, 0.1)

Result = TypeVar("Result")


class EtcdCalls:
    """Insisting calls to one member."""

    def __init__(
        self, channel: EtcdChannel, clock: Clock, entropy: Entropy, *, give_up_s: float
    ) -> None:
        self._entropy = entropy
        self._give_up_s = give_up_s
        self._terms = TermWatch(channel)
        self.lease = RollingLease(self._terms, clock)

    async def settle(
        self, request_id: bytes, build: Callable[[int], pb.TxnRequest]
    ) -> pb.TxnResponse | Committed | Cancelled | OutcomeUnknown:
        """Send until there is a reply, a definite refusal, or no time left."""
        attempts = _Attempts()
        try:
            async with asyncio.timeout(self._give_up_s):
                while True:
                    reply = await self._attempt(build, attempts)
                    if reply is not None:
                        return reply
                    if attempts.met_full:
                        return await self._settle_full(request_id, attempts)
                    await self._pause()
        except TimeoutError:
            return OutcomeUnknown(attempts.reason)
        except StorageFull:
            raise
        except Unavailable as unanswered:
            return OutcomeUnknown(unanswered.message)

    async def _attempt(
        self, build: Callable[[int], pb.TxnRequest], attempts: "_Attempts"
    ) -> pb.TxnResponse | None:
        """Send once; None when there was no reply. Raises TransactionTooLarge."""
        lease = 0
        try:
            lease = await self.lease.current()
            return await self._terms.ask(TXN, build(lease))
        except NewTerm:
            attempts.note(Fate.UNKNOWN if lease else Fate.NOT_SENT, "the leader changed")
        except grpc.aio.AioRpcError as error:
            fate = fate_of(error)
            if fate is Fate.REFUSED:
                raise TransactionTooLarge(f"the engine refuses: {error.details()}") from None
            if fate is Fate.LEASE_GONE:
                self.lease.discard(lease)
            if fate is Fate.UNKNOWN and not lease:
                fate = Fate.NOT_SENT  # the lease failed; the transaction was not sent
            attempts.note(fate, error.details() or error.code().name)
        return None

    async def _settle_full(
        self, request_id: bytes, attempts: "_Attempts"
    ) -> Committed | Cancelled | OutcomeUnknown:
        """Settle "database space exceeded", which a transaction may meet after it was applied.

        Raises StorageFull when the id has no record and no earlier attempt can bring one.
        """
        request = pb.RangeRequest(key=REQUEST + request_id)
        reply = await self.retry(lambda: self._terms.ask(RANGE, request))
        known = recorded(reply.kvs[0] if reply.kvs else None)
        if known is not None:
            return known
        if attempts.may_land:
            return OutcomeUnknown(
                "the storage engine is full, and an earlier attempt may be applied"
            )
        raise StorageFull

    async def _pause(self) -> None:
        await asyncio.sleep(self._entropy.uniform(*RETRY_S))

    async def retry(self, ask: Callable[[], Awaitable[Result]]) -> Result:
        """Repeat a read until it is answered, or raise what it met."""
        reached = True
        try:
            async with asyncio.timeout(READ_GIVE_UP_S):
                while True:
                    try:
                        return await ask()
                    except NewTerm:
                        continue
                    except grpc.aio.AioRpcError as error:
                        fate = fate_of(error)
                        if fate in {Fate.REFUSED, Fate.COMPACTED, Fate.FULL}:
                            raise _refusal(error, fate) from None
                        reached = fate is not Fate.NOT_SENT
                    await self._pause()
        except TimeoutError:
            if reached:
                raise NoQuorum from None
            raise Unavailable("the storage engine does not run; see the manager's log") from None

    async def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        """Return the reply to a read; raises as `retry` does."""
        return await self.retry(lambda: self._terms.ask(RANGE, request))

    def close(self) -> None:
        """Ask for no term any more."""
        self._terms.close()


class _Attempts:
    """What is known of the attempts under one request id."""

    def __init__(self) -> None:
        self.may_land = False
        self.met_full = False
        self.reason = "the storage engine does not answer"

    def note(self, fate: Fate, reason: str) -> None:
        """Remember an attempt that brought no reply."""
        self.may_land = self.may_land or fate is Fate.UNKNOWN
        self.met_full = fate is Fate.FULL
        self.reason = reason


def _refusal(error: grpc.aio.AioRpcError, fate: Fate) -> ClusterError:
    if fate is Fate.COMPACTED:
        return Compacted(0)
    if fate is Fate.FULL:
        return StorageFull()
    return InvalidRequest(f"the storage engine refuses: {error.details()}")
