"""The line to the own etcd member: channel, callables, keyspaces, and what each error means.

Owns the mapping from gRPC's codes to "certainly not applied" and "unknown"; decides nothing.
Source: etcd's api/etcdserverpb/rpc.proto (service paths) and api/v3rpc/rpctypes/error.go (texts).

A member refuses some requests only after it has applied them: "database space exceeded" may come
from the apply step of a transaction that was written. It counts as a refusal only together with an
absent request id.
"""

import asyncio
import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from cluster.engine import etcd_pb2 as pb
from cluster.engine.seam import Entry
from cluster.protocol.errors import Unavailable

DATA = b"d"
REQUEST = b"r"
CAMPAIGN = b"c"

RECEIVE_BYTES = 256 << 20
"""A failure branch may return every compared value, a page a hundred of the largest ones; and more
than the small values before them let expect."""

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", RECEIVE_BYTES),
    ("grpc.max_send_message_length", RECEIVE_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    # a restarted member serves within 0.2 s; gRPC would wait 1 to 120 s
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 250),
)


class Fate(enum.Enum):
    """What an error says about the request that met it."""

    NOT_SENT = enum.auto()
    """The member could not be reached."""
    REFUSED = enum.auto()
    """It can never be accepted as it is."""
    FULL = enum.auto()
    """The quota is reached; see the module for why this is no certain refusal."""
    LEASE_GONE = enum.auto()
    """Its lease ended; nothing was applied."""
    COMPACTED = enum.auto()
    """It reads history that is gone."""
    UNKNOWN = enum.auto()
    """It may have been applied, or be applied later."""


def fate_of(error: grpc.aio.AioRpcError) -> Fate:
    """Return what an error says; anything not known to be definite is UNKNOWN."""
    text = error.details() or ""
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.UNIMPLEMENTED:
            return Fate.REFUSED
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "database space exceeded" in text:
            return Fate.FULL
        case grpc.StatusCode.NOT_FOUND if "lease not found" in text:
            return Fate.LEASE_GONE
        case grpc.StatusCode.OUT_OF_RANGE if "compacted" in text:
            return Fate.COMPACTED
        case grpc.StatusCode.OUT_OF_RANGE:
            return Fate.REFUSED
        case grpc.StatusCode.UNAVAILABLE if "failed to connect to all addresses" in text:
            return Fate.NOT_SENT
        case _:
            return Fate.UNKNOWN


def entry_of(kv: pb.KeyValue) -> Entry:
    """Return a stored key without its keyspace."""
    return Entry(kv.key[1:], kv.value, kv.create_revision, kv.mod_revision)


Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Reply]):
    """One of etcd's calls: its service path and its two messages."""

    path: str
    request: type[Request]
    reply: type[Reply]


RANGE = Method("KV/Range", pb.RangeRequest, pb.RangeResponse)
TXN = Method("KV/Txn", pb.TxnRequest, pb.TxnResponse)
COMPACT = Method("KV/Compact", pb.CompactionRequest, pb.CompactionResponse)
WATCH = Method("Watch/Watch", pb.WatchRequest, pb.WatchResponse)
LEASE_GRANT = Method("Lease/LeaseGrant", pb.LeaseGrantRequest, pb.LeaseGrantResponse)
LEASE_REVOKE = Method("Lease/LeaseRevoke", pb.LeaseRevokeRequest, pb.LeaseRevokeResponse)
LEASE_KEEP = Method("Lease/LeaseKeepAlive", pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse)
MEMBER_ADD = Method("Cluster/MemberAdd", pb.MemberAddRequest, pb.MemberAddResponse)
MEMBER_REMOVE = Method("Cluster/MemberRemove", pb.MemberRemoveRequest, pb.MemberRemoveResponse)
MEMBER_PROMOTE = Method("Cluster/MemberPromote", pb.MemberPromoteRequest, pb.MemberPromoteResponse)
MEMBER_LIST = Method("Cluster/MemberList", pb.MemberListRequest, pb.MemberListResponse)
STATUS = Method("Maintenance/Status", pb.StatusRequest, pb.StatusResponse)
ALARM = Method("Maintenance/Alarm", pb.AlarmRequest, pb.AlarmResponse)
DEFRAGMENT = Method("Maintenance/Defragment", pb.DefragmentRequest, pb.DefragmentResponse)
MOVE_LEADER = Method("Maintenance/MoveLeader", pb.MoveLeaderRequest, pb.MoveLeaderResponse)


class EtcdChannel:
    """One gRPC channel over the member's unix socket."""

    def __init__(self, socket_path: Path) -> None:
        self._channel = grpc.aio.insecure_channel(f"unix:{socket_path}", options=OPTIONS)
        self._methods: dict[str, Any] = {}
        """By service path: made once, for a manager makes thousands of calls a second."""
        self.closed = False

    async def ask(
        self, method: Method[Request, Reply], request: Request, *, timeout_s: float | None = None
    ) -> Reply:
        """Return the member's reply. Raises AioRpcError, Unavailable once closed."""
        return await self.reply(self.begin(method, request, timeout_s=timeout_s))

    def begin(
        self, method: Method[Request, Reply], request: Request, *, timeout_s: float | None = None
    ) -> "grpc.aio.UnaryUnaryCall[Request, Reply]":
        """Send a request; `reply` waits for its reply. Raises Unavailable once closed."""
        self.check_open()
        known = self._methods.get(method.path)
        if known is None:
            path = f"/etcdserverpb.{method.path}"
            known = self._methods[method.path] = self._channel.unary_unary(
                path, method.request.SerializeToString, method.reply.FromString
            )
        call: grpc.aio.UnaryUnaryCall[Request, Reply] = known(request, timeout=timeout_s)
        return call

    async def reply(self, call: "grpc.aio.UnaryUnaryCall[Request, Reply]") -> Reply:
        """Return the reply. Raises AioRpcError, Unavailable once closed."""
        try:
            return await call
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.closed and task is not None and not task.cancelling():
                self.check_open()  # closing the channel cancelled the call, nobody the caller
            raise

    def stream(
        self, method: Method[Request, Reply], *, needs_leader: bool
    ) -> "grpc.aio.StreamStreamCall[Request, Reply]":
        """Open a stream; with `needs_leader` it ends when the member loses sight of a leader."""
        self.check_open()
        path = f"/etcdserverpb.{method.path}"
        call: grpc.aio.StreamStreamMultiCallable[Request, Reply] = self._channel.stream_stream(
            path, method.request.SerializeToString, method.reply.FromString
        )
        return call(metadata=(("hasleader", "true"),) if needs_leader else None)

    def check_open(self) -> None:
        """Raise Unavailable once closed."""
        if self.closed:
            raise Unavailable("the storage engine is closed; restart the manager")

    async def close(self) -> None:
        """Cancel every call and let go of the socket."""
        self.closed = True
        await self._channel.close()
