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
from typing import Any, Final

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
    silence = _Silence(call)
    asking: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(SILENCE_S):
            await call.write(_creation(prefix, from_revision))
        asking = asyncio.create_task(_ask_for_progress(call), name="etcd-watch-progress")
        gathered: dict[int, list[Change]] = {}
        while True:
            reply = await _next_reply(channel, call, silence)
            for event in reply.events:
                kv = event.kv
                change = Change(entry_of(kv), event.type == pb.Event.DELETE)
                gathered.setdefault(change.entry.mod_revision, []).append(change)
            if gathered and not reply.fragment:
                for revision in sorted(gathered):
                    yield WatchBatch(revision, tuple(gathered[revision]))
                gathered = {}
    finally:
        silence.end()
        if asking is not None:
            asking.cancel()
        call.cancel()


class _Silence:
    """Cancels a stream that was read for `SILENCE_S` and brought nothing: one timer for many
    replies."""

    def __init__(self, call: "grpc.aio.StreamStreamCall[Any, Any]") -> None:
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._since_s: float | None = None
        """Since when somebody reads; None while nobody does."""
        self._timer = self._loop.call_later(SILENCE_S, self._look)
        self.was_too_long = False

    def begins(self) -> None:
        """Note that a reply is waited for."""
        self._since_s = self._loop.time()

    def is_over(self) -> None:
        """Note that it came."""
        self._since_s = None

    def _look(self) -> None:
        now_s = self._loop.time()
        left_s = SILENCE_S if self._since_s is None else self._since_s + SILENCE_S - now_s
        if left_s <= 0:
            self.was_too_long = True
            self._call.cancel()
        else:
            self._timer = self._loop.call_later(left_s, self._look)

    def end(self) -> None:
        """Look no more."""
        self._timer.cancel()


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
    silence: _Silence,
) -> pb.WatchResponse:
    silence.begins()
    try:
        reply = await call.read()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            if channel.closed:
                channel.check_open()
            if silence.was_too_long:
                raise StreamEnded from None
        raise
    silence.is_over()
    if not isinstance(reply, pb.WatchResponse):  # the end of the stream
        raise StreamEnded
    if reply.canceled:
        if reply.compact_revision:
            raise Compacted(reply.compact_revision)
        raise StreamEnded
    return reply
