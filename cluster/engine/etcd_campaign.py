"""Campaigns over etcd: a key that lives as long as its holder's lease.

Owns the election for a duty; `etcd_lease` keeps what was won. The key's lease is the holder's mark,
so an attempt whose reply was lost is recognised as won when it is repeated. Source: etcd's
concurrency recipes, with one key a duty.
"""

import asyncio
import contextlib
import math
from typing import Final

import grpc.aio

from cluster.engine import etcd_pb2 as pb
from cluster.engine.etcd_channel import CAMPAIGN, RANGE, TXN, EtcdChannel
from cluster.engine.etcd_lease import SHORTEST_TTL_S, EtcdDuty, grant, revoke
from cluster.engine.etcd_watch import watch
from cluster.engine.limits import prefix_end
from cluster.engine.seam import Held
from cluster.system import Clock

CALL_S: Final = 2.0
RETRY_S: Final = 0.2
LOOK_AGAIN_S: Final = 5.0
"""How long a wait for a vacancy trusts the watch."""


class EtcdCampaigns:
    """The duties this process holds or waits for."""

    def __init__(self, channel: EtcdChannel, clock: Clock) -> None:
        self._channel = channel
        self._clock = clock
        self._held: set[EtcdDuty] = set()

    @staticmethod
    def listing() -> pb.RangeRequest:
        """Return the request for all holders."""
        return pb.RangeRequest(key=CAMPAIGN, range_end=prefix_end(CAMPAIGN))

    async def campaign(self, name: bytes, holder: str, ttl_s: float) -> EtcdDuty:
        """Wait until this process holds the duty; errors of the engine only make it wait longer."""
        ttl = max(math.ceil(ttl_s), SHORTEST_TTL_S)
        while True:
            self._channel.check_open()
            try:
                duty = await self._try(name, holder, ttl)
                if duty is not None:
                    self._held = {held for held in self._held if not held.is_over} | {duty}
                    return duty
                await self._vacancy(name)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(RETRY_S)

    async def _try(self, name: bytes, holder: str, ttl_s: int) -> EtcdDuty | None:
        """Take the duty if it is vacant; a lease that won nothing is revoked, whatever happens."""
        look = pb.RangeRequest(key=CAMPAIGN + name)
        if (await self._channel.ask(RANGE, look, timeout_s=CALL_S)).kvs:
            return None
        sent_s = self._clock.boottime_s()
        lease = await grant(self._channel, ttl_s)
        revision = None
        try:
            revision = await self._take(name, holder, lease)
        finally:
            if revision is None:
                await revoke(self._channel, lease)
        if revision is None:
            return None
        guard = Held(name, revision)
        return EtcdDuty(self._channel, self._clock, guard, lease, ttl_s, sent_s)

    async def _take(self, name: bytes, holder: str, lease: int) -> int | None:
        """Return the revision from which the duty is ours, None if another has it."""
        key = CAMPAIGN + name
        put = pb.PutRequest(key=key, value=holder.encode(), lease=lease)
        absent = pb.Compare(
            key=key, target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=0
        )
        request = pb.TxnRequest(
            compare=[absent],
            success=[pb.RequestOp(request_put=put)],
            failure=[pb.RequestOp(request_range=pb.RangeRequest(key=key))],
        )
        reply = await self._channel.ask(TXN, request, timeout_s=CALL_S)
        if reply.succeeded:
            return reply.header.revision
        holding = reply.responses[0].response_range.kvs
        return holding[0].mod_revision if holding and holding[0].lease == lease else None

    async def _vacancy(self, name: bytes) -> None:
        """Return when the holder may be gone."""
        look = pb.RangeRequest(key=CAMPAIGN + name)
        reply = await self._channel.ask(RANGE, look, timeout_s=CALL_S)
        if not reply.kvs:
            return
        changes = watch(self._channel, CAMPAIGN + name, reply.header.revision + 1)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_AGAIN_S), contextlib.aclosing(changes):
                await anext(changes)

    def close(self) -> None:
        """Keep no duty alive any more."""
        for duty in self._held:
            duty.stop()
