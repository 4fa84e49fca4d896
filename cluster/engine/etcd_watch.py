"""The watch loop over etcd: whole revisions, in order, each once, across any number of streams.

Owns reconnecting and resuming; interprets no value. Rules:

- Only delivered events move the resume point. Headers of "created" and progress replies may run
ahead of events that are
  still to come (etcd issue 15220).
- A stream starts one revision before the one wanted: a compaction at exactly the wanted revision
drops that revision's
  removals, and etcd would not tell. What it sends again is dropped here.
- Fragments: one revision may be cut; it is put together before it is handed on.
- Liveness: a member that is stopped or cut off sends nothing, so progress is asked for and silence
ends the stream.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Final

import grpc
import grpc.aio
import structlog

from cluster.engine import etcd_pb2 as pb
from cluster.engine.etcd_channel import WATCH, EtcdChannel, entry_of
from cluster.engine.limits import prefix_end
from cluster.engine.seam import Change, WatchBatch
from cluster.protocol.errors import Compacted

log = structlog.get_logger()

ASK_EVERY_S: Final = 2.0
SILENCE_S: Final = 6.0
FIRST_BACKOFF_S: Final = 0.05
LAST_BACKOFF_S: Final = 2.0


class StreamEnded(ConnectionError):  # noqa: N818  # caught by the loop below, never seen outside
    """The member ended a stream, or was silent for too long."""


async def watch(
    channel: EtcdChannel, prefix: bytes, from_revision: int
) -> AsyncGenerator[WatchBatch, None]:
    """Yield every revision that touches `prefix` (keyspace included). Raises Compacted."""
    following = from_revision
    backoff_s = FIRST_BACKOFF_S
    while True:
        try:
            async with contextlib.aclosing(_stream(channel, prefix, following)) as batches:
                async for batch in batches:
                    if batch.revision >= following:
                        following = batch.revision + 1
                        yield batch
                    backoff_s = FIRST_BACKOFF_S
        except (grpc.aio.AioRpcError, OSError, asyncio.InvalidStateError) as error:
            channel.check_open()
            log.debug("engine.watch_reconnects", reason=type(error).__name__)
        await asyncio.sleep(backoff_s)
        backoff_s = min(backoff_s * 2, LAST_BACKOFF_S)


async def _stream(
    channel: EtcdChannel, prefix: bytes, from_revision: int
) -> AsyncGenerator[WatchBatch, None]:
    """Yield the batches of one stream until it fails."""
    call = channel.stream(WATCH, needs_leader=True)
    asking: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(SILENCE_S):
            await call.write(_creation(prefix, from_revision))
        asking = asyncio.create_task(_ask_for_progress(call), name="etcd-watch-progress")
        gathered: dict[int, list[Change]] = {}
        while True:
            reply = await _next_reply(channel, call)
            for event in reply.events:
                deleted = event.type == pb.Event.DELETE
                change = Change(entry_of(event.kv), deleted)
                gathered.setdefault(event.kv.mod_revision, []).append(change)
            if reply.events and not reply.fragment:
                for revision in sorted(gathered):
                    yield WatchBatch(revision, tuple(gathered[revision]))
                gathered = {}
    finally:
        if asking is not None:
            asking.cancel()
        call.cancel()


def _creation(prefix: bytes, from_revision: int) -> pb.WatchRequest:
    create = pb.WatchCreateRequest(
        key=prefix,
        range_end=prefix_end(prefix) or b"\0",
        start_revision=max(from_revision - 1, 1),
        fragment=True,
    )
    return pb.WatchRequest(create_request=create)


async def _ask_for_progress(
    call: "grpc.aio.StreamStreamCall[pb.WatchRequest, pb.WatchResponse]",
) -> None:
    """Make a living member answer; a dead stream is the reader's to notice."""
    request = pb.WatchRequest(progress_request=pb.WatchProgressRequest())
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while True:
            await asyncio.sleep(ASK_EVERY_S)
            await call.write(request)


async def _next_reply(
    channel: EtcdChannel,
    call: "grpc.aio.StreamStreamCall[pb.WatchRequest, pb.WatchResponse]",
) -> pb.WatchResponse:
    try:
        async with asyncio.timeout(SILENCE_S):  # ends the call too: a late reply is not missed
            reply = await call.read()
    except TimeoutError:
        raise StreamEnded from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if channel.closed and task is not None and not task.cancelling():
            channel.check_open()
        raise
    if not isinstance(reply, pb.WatchResponse):  # the end of the stream
        raise StreamEnded
    if reply.canceled:
        if reply.compact_revision:
            raise Compacted(reply.compact_revision)
        raise StreamEnded
    return reply
