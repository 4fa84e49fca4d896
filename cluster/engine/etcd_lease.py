"""Leases: the rolling one that request ids hang on, and the one that a held duty lives by.

Owns granting, keeping and revoking; knows nothing of what hangs on a lease. Ages are counted on the
clock that includes sleep, from before a request is sent, so a lease is never believed to live
longer than the member lets it.
"""

import asyncio
import contextlib
import math

import grpc.aio
import structlog

from cluster.engine import etcd_pb2 as pb
from cluster.engine.etcd_channel import LEASE_GRANT, LEASE_KEEP, LEASE_REVOKE, EtcdChannel
from cluster.engine.etcd_terms import TermWatch
from cluster.engine.seam import REQUEST_TTL_S, Held
from cluster.system import Clock

log = structlog.get_logger()

ROLL_S = 60
"""How long one lease takes new request ids: fewer hang on each, so its end removes few at once."""
MARGIN_S = 60
CALL_S = 2.0
SHORTEST_TTL_S = 2


class RollingLease:
    """The lease for request ids of the present minute; never kept alive, so it ends by itself."""

    def __init__(self, terms: TermWatch, clock: Clock) -> None:
        self._terms = terms
        self._clock = clock
        self._lease = 0
        self._granted_s = -math.inf
        self._granting = asyncio.Lock()

    async def current(self) -> int:
        """Return a lease with at least `REQUEST_TTL_S` to live. Raises AioRpcError, NewTerm."""
        async with self._granting:
            now_s = self._clock.boottime_s()
            if now_s - self._granted_s >= ROLL_S:
                ttl_s = REQUEST_TTL_S + ROLL_S + MARGIN_S
                reply = await self._terms.ask(LEASE_GRANT, pb.LeaseGrantRequest(TTL=ttl_s))
                self._lease = reply.ID
                self._granted_s = now_s
            return self._lease

    def discard(self, lease: int) -> None:
        """Take no more ids on a lease that turned out to be gone."""
        if lease == self._lease:
            self._granted_s = -math.inf


async def grant(channel: EtcdChannel, ttl_s: int) -> int:
    """Return a new lease's id. Raises AioRpcError."""
    reply = await channel.ask(LEASE_GRANT, pb.LeaseGrantRequest(TTL=ttl_s), timeout_s=CALL_S)
    return reply.ID


async def revoke(channel: EtcdChannel, lease: int) -> None:
    """End a lease and remove what hangs on it; when that fails it ends by itself, later."""
    try:
        await channel.ask(LEASE_REVOKE, pb.LeaseRevokeRequest(ID=lease), timeout_s=CALL_S)
    except grpc.aio.AioRpcError as error:
        log.warning("engine.lease_left", code=error.code().name)


class EtcdDuty:
    """A held duty: kept while its lease is, lost at the latest when the lease could have ended."""

    def __init__(
        self, channel: EtcdChannel, clock: Clock, guard: Held, lease: int, ttl_s: int, sent_s: float
    ) -> None:
        self._channel = channel
        self._clock = clock
        self._guard = guard
        self._lease = lease
        self._ttl_s = ttl_s
        self._until_s = sent_s + ttl_s
        self._ended = asyncio.Event()
        self._keeping = asyncio.create_task(self._keep(), name="etcd-duty")

    @property
    def guard(self) -> Held:
        """The compare that fails as soon as the duty is lost."""
        return self._guard

    @property
    def is_over(self) -> bool:
        """Whether the duty was lost or given up."""
        return self._ended.is_set()

    async def lost(self) -> None:
        """Return when the duty is certainly or possibly lost."""
        await self._ended.wait()

    async def resign(self) -> None:
        """Give the duty up at once."""
        self.stop()
        await revoke(self._channel, self._lease)

    def stop(self) -> None:
        """Keep the duty no longer; it ends with its lease."""
        self._keeping.cancel()
        self._ended.set()

    async def _keep(self) -> None:
        """Renew three times a term until a renewal came too late or the lease is gone."""
        try:
            pause_s = self._ttl_s / 3
            while (left_s := self._until_s - self._clock.boottime_s()) > 0:
                await asyncio.sleep(min(pause_s, left_s))
                sent_s = self._clock.boottime_s()
                ttl_s = await self._renew()
                if ttl_s == 0:
                    break
                if ttl_s is None:
                    pause_s = self._ttl_s / 20
                else:
                    pause_s = self._ttl_s / 3
                    self._until_s = sent_s + ttl_s
            log.warning("engine.duty_lost", name=self._guard.key.decode())
        finally:
            self._ended.set()

    async def _renew(self) -> int | None:
        """Return the lease's new time to live, 0 when it is gone, None when nobody answered."""
        left_s = max(self._until_s - self._clock.boottime_s(), 0.01)
        call = self._channel.stream(LEASE_KEEP, needs_leader=True)
        try:
            async with asyncio.timeout(min(left_s, CALL_S)):
                await call.write(pb.LeaseKeepAliveRequest(ID=self._lease))
                reply = await call.read()
        except (TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return None
        finally:
            with contextlib.suppress(asyncio.InvalidStateError):
                call.cancel()
        return reply.TTL if isinstance(reply, pb.LeaseKeepAliveResponse) else None
