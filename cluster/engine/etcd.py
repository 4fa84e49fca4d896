"""The replicated engine: a co-located etcd member, reached over its unix socket.

Joins the parts to what the seam promises; `etcd_calls` insists, `etcd_transaction` translates.
Sources: etcd's API guarantees, ADR 0002.
"""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final, Self, TypeVar

import grpc.aio

from cluster.engine import etcd_pb2 as pb
from cluster.engine.etcd_calls import EtcdCalls
from cluster.engine.etcd_campaign import EtcdCampaigns
from cluster.engine.etcd_channel import (
    ALARM,
    COMPACT,
    DATA,
    DEFRAGMENT,
    MEMBER_LIST,
    STATUS,
    EtcdChannel,
    Fate,
    entry_of,
    fate_of,
)
from cluster.engine.etcd_membership import EtcdMembership, engine_members
from cluster.engine.etcd_reach import Reach
from cluster.engine.etcd_transaction import cancellation, outcome, settled, transaction
from cluster.engine.etcd_watch import watch
from cluster.engine.limits import check_key, check_request_id, check_transaction, prefix_end
from cluster.engine.seam import (
    PAGE_SIZE,
    Cancelled,
    Committed,
    Compare,
    CompareFailed,
    EngineStatus,
    Entry,
    Leadership,
    Operation,
    Outcome,
    OutcomeUnknown,
    Page,
    WatchBatch,
)
from cluster.protocol.errors import (
    Compacted,
    InvalidRequest,
    Unavailable,
)
from cluster.system import Clock, Entropy

GIVE_UP_S: Final = 10.0
READ_GIVE_UP_S: Final = 5.0
STATUS_S: Final = 2.0
MAINTENANCE_S: Final = 120.0
RETRY_S: Final = (0.02, 0.1)
CHUNK_ENTRIES: Final = 100
CHUNK_GROWTH: Final = 10
CHUNK_BYTES: Final = 4 << 20

Result = TypeVar("Result")


class EtcdEngine:
    """An `Engine` over one member of an etcd cluster; `connect` makes it.

    `membership` changes who belongs to the cluster. `recover_space` frees this member only: run it
    on each manager that `status` names.
    """

    def __init__(
        self,
        channel: EtcdChannel,
        clock: Clock,
        entropy: Entropy,
        *,
        quota_bytes: int,
        give_up_s: float,
    ) -> None:
        self._channel = channel
        self._quota_bytes = quota_bytes
        self._calls = EtcdCalls(channel, clock, entropy, give_up_s=give_up_s)
        self._campaigns = EtcdCampaigns(channel, clock)
        self._reach = Reach()
        self.membership = EtcdMembership(channel)

    @classmethod
    async def connect(
        cls,
        socket_path: Path,
        clock: Clock,
        entropy: Entropy,
        *,
        quota_bytes: int = 1 << 30,
        give_up_s: float = GIVE_UP_S,
    ) -> Self:
        """Return an engine on a member's socket; the member need not run yet.

        `give_up_s`: after how long a write that nobody answers for is OutcomeUnknown.
        """
        channel = EtcdChannel(socket_path)
        return cls(channel, clock, entropy, quota_bytes=quota_bytes, give_up_s=give_up_s)

    async def transact(
        self, request_id: bytes, compares: Sequence[Compare], operations: Sequence[Operation]
    ) -> Outcome:
        """See `Engine.transact`."""
        check_transaction(request_id, compares, operations)

        def build(lease: int) -> pb.TxnRequest:
            return transaction(request_id, compares, operations, lease)

        reply = await self._calls.settle(request_id, build)
        match reply:
            case pb.TxnResponse():
                return outcome(reply)
            case Cancelled():
                return CompareFailed(())
            case _:
                return reply

    async def cancel(self, request_id: bytes) -> Committed | Cancelled | OutcomeUnknown:
        """See `Engine.cancel`."""
        check_request_id(request_id)
        reply = await self._calls.settle(request_id, lambda lease: cancellation(request_id, lease))
        return settled(reply) if isinstance(reply, pb.TxnResponse) else reply

    async def read(self, key: bytes, *, linearizable: bool = True) -> Entry | None:
        """See `Engine.read`."""
        check_key(key)
        reply = await self._calls.range(
            pb.RangeRequest(key=DATA + key, serializable=not linearizable)
        )
        return entry_of(reply.kvs[0]) if reply.kvs else None

    async def list_page(
        self,
        prefix: bytes,
        *,
        after: bytes | None = None,
        at_revision: int | None = None,
        limit: int = PAGE_SIZE,
        linearizable: bool = True,
    ) -> Page:
        """See `Engine.list_page`. A page ends early when its values grow large."""
        whole = DATA + prefix
        start = DATA + (prefix if after is None else max(prefix, after + b"\0"))
        revision, more, size, chunk = at_revision or 0, True, 0, CHUNK_ENTRIES
        entries: list[Entry] = []
        while more and len(entries) < limit and size < CHUNK_BYTES:
            wanted = min(limit - len(entries), chunk)
            end = self._reach.end(whole, start, wanted)
            request = pb.RangeRequest(
                key=start,
                range_end=end or prefix_end(whole),
                limit=wanted,
                revision=revision,
                # The past is the same for every member: the own one tells it, without a quorum.
                serializable=revision > 0 or not linearizable,
            )
            try:
                reply = await self._past_or_present(request)
            except Compacted:
                raise Compacted(revision + 1) from None
            found = len(reply.kvs)
            last = reply.kvs[-1].key if reply.more else None
            self._reach.learn(whole, start, end, last, found, reply.count)
            revision, more = revision or reply.header.revision, reply.more or end is not None
            entries += map(entry_of, reply.kvs)
            size += sum(len(kv.value) for kv in reply.kvs)
            if last is not None:
                start = last + b"\0"
            elif end is not None:
                start = end
            # Few requests with many keys each, as long as values are small. Those still to come may
            # be larger: the next request asks for some times as many and no more.
            room = (CHUNK_BYTES - size) * len(entries) // (size + 1)
            chunk = max(CHUNK_ENTRIES, min(room, chunk * CHUNK_GROWTH))
        return Page(tuple(entries), revision, more)

    async def _past_or_present(self, request: pb.RangeRequest) -> pb.RangeResponse:
        """Read a range; ask the quorum where the own member has not come so far yet."""
        try:
            return await self._calls.range(request)
        except InvalidRequest:
            if not (request.serializable and request.revision):
                raise
            request.serializable = False
            return await self._calls.range(request)

    def watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[WatchBatch]:
        """See `Engine.watch`."""
        if from_revision < 1:
            raise InvalidRequest("a watch starts at revision 1 or later")
        return watch(self._channel, DATA + prefix, from_revision)

    async def barrier(self) -> int:
        """See `Engine.barrier`."""
        reply = await self._calls.range(pb.RangeRequest(key=DATA, keys_only=True))
        return reply.header.revision

    async def campaign(self, name: str, holder: str, ttl_s: float) -> Leadership:
        """See `Engine.campaign`."""
        check_key(name.encode())
        return await self._campaigns.campaign(name.encode(), holder, ttl_s)

    async def holders(self) -> dict[str, str]:
        """See `Engine.holders`."""
        reply = await self._calls.range(self._campaigns.listing())
        return {kv.key[1:].decode(): kv.value.decode() for kv in reply.kvs}

    async def compact(self, revision: int) -> None:
        """See `Engine.compact`. etcd drops removals at the very revision: keep one more."""
        if revision > await self.barrier():
            raise InvalidRequest("cannot compact at a revision that is not there yet")
        if revision <= 1:
            return
        request = pb.CompactionRequest(revision=revision - 1)
        try:
            await self._calls.retry(lambda: self._channel.ask(COMPACT, request, timeout_s=STATUS_S))
        except Compacted:
            return

    async def recover_space(self) -> None:
        """See `Engine.recover_space`. Stalls this member for about a second."""
        head = await self.barrier()
        compaction = pb.CompactionRequest(revision=head, physical=True)
        try:
            await self._channel.ask(COMPACT, compaction, timeout_s=MAINTENANCE_S)
        except grpc.aio.AioRpcError as error:
            if fate_of(error) is not Fate.COMPACTED:
                raise Unavailable("history could not be compacted; retry") from None
        try:
            await self._channel.ask(DEFRAGMENT, pb.DefragmentRequest(), timeout_s=MAINTENANCE_S)
            await self._disarm()
        except grpc.aio.AioRpcError as error:
            raise Unavailable(f"space could not be freed ({error.code().name}); retry") from None

    async def _disarm(self) -> None:
        """Clear the own member's alarm: another's stands until that member was defragmented."""
        status = await self._channel.ask(STATUS, pb.StatusRequest(), timeout_s=STATUS_S)
        request = pb.AlarmRequest(
            action=pb.AlarmRequest.DEACTIVATE,
            memberID=status.header.member_id,
            alarm=pb.NOSPACE,
        )
        await self._channel.ask(ALARM, request, timeout_s=MAINTENANCE_S)

    async def status(self) -> EngineStatus:
        """See `Engine.status`."""
        try:
            own = await self._channel.ask(STATUS, pb.StatusRequest(), timeout_s=STATUS_S)
            listing = pb.MemberListRequest()
            known = await self._channel.ask(MEMBER_LIST, listing, timeout_s=STATUS_S)
        except grpc.aio.AioRpcError:
            raise Unavailable("the storage engine does not answer; see the manager's log") from None
        names = {member.ID: member.name for member in known.members}
        return EngineStatus(
            kind="etcd",
            version=own.version,
            members=engine_members(known.members),
            leader=names.get(own.leader, ""),
            revision=own.header.revision,
            size_bytes=own.dbSize,
            quota_bytes=self._quota_bytes,
            # Its errors hold more than alarms: that there is no leader, which `leader` says.
            alarms=tuple(text.strip() for text in own.errors if "alarm:" in text),
            cluster_id=format(own.header.cluster_id, "x"),
        )

    async def close(self) -> None:
        """See `Engine.close`. Held duties end with their leases."""
        self._campaigns.close()
        self._calls.close()
        await self._channel.close()
