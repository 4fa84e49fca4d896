"""Resending across elections: a proposal that was forwarded to a leader which died is lost without
a word.

The member says so only after 7 s. So while a request is outstanding its member is asked for its
term; once it follows a leader of a newer term, the request is given up with `NewTerm`, and the
owner sends it again. Safe for what repeats safely only: transactions guarded by a request id, and
reads.
"""

import asyncio
from typing import Final

import grpc.aio

from cluster.engine import etcd_pb2 as pb
from cluster.engine.etcd_channel import STATUS, EtcdChannel, Method, Reply, Request
from cluster.protocol.errors import Unavailable

POLL_S: Final = 0.025
STATUS_S: Final = 0.5


class NewTerm(Exception):  # noqa: N818  # an event, caught by the sender
    """The request may have been lost with an earlier leader."""


class TermWatch:
    """Asks the own member for its term, one question for all who wait."""

    def __init__(self, channel: EtcdChannel) -> None:
        self._channel = channel
        self._polling: asyncio.Task[None] | None = None
        self.term = 0
        """The newest term known to have a leader; 0 before the first answer."""

    async def ask(self, method: Method[Request, Reply], request: Request) -> Reply:
        """Return the reply. Raises AioRpcError, NewTerm."""
        term_at_start = self.term
        asking = asyncio.create_task(self._channel.ask(method, request), name="etcd-ask")
        try:
            while True:
                await asyncio.wait([asking], timeout=POLL_S)
                if asking.done():
                    return asking.result()
                await self._poll(asking)
                if self.term > term_at_start > 0 and not asking.done():
                    raise NewTerm
                term_at_start = term_at_start or self.term
        finally:
            if not asking.cancel() and not asking.cancelled():
                asking.exception()  # an answer that came too late is nobody's to miss

    async def _poll(self, asking: asyncio.Task[Reply]) -> None:
        """Learn the term, or return early with the reply."""
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._learn(), name="etcd-term")
        await asyncio.wait([asking, self._polling], return_when=asyncio.FIRST_COMPLETED)

    async def _learn(self) -> None:
        try:
            status = await self._channel.ask(STATUS, pb.StatusRequest(), timeout_s=STATUS_S)
        except (grpc.aio.AioRpcError, Unavailable):
            await asyncio.sleep(POLL_S)
            return
        if status.leader:
            self.term = max(self.term, status.raftTerm)

    def close(self) -> None:
        """Ask no more."""
        if self._polling is not None:
            self._polling.cancel()
