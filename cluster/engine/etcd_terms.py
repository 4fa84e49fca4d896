"""Resending across elections: a proposal that was forwarded to a leader which died is lost without
a word.

The member says so only after 7 s. So while a request is outstanding its member is asked for its
term; once it follows a leader of a newer term, the request is given up with `NewTerm`, and the
owner sends it again. Safe for what repeats safely only: transactions guarded by a request id, and
reads.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio

from cluster.engine import etcd_pb2 as pb
from cluster.engine.etcd_channel import STATUS, EtcdChannel, Method, Reply, Request
from cluster.protocol.errors import Unavailable

POLL_S: Final = 0.025
STATUS_S: Final = 0.5


class NewTerm(Exception):  # noqa: N818  # an event, caught by the sender
    """The request may have been lost with an earlier leader."""


@dataclass(slots=True, eq=False)
class _Outstanding:
    """A request that is not answered yet."""

    call: "grpc.aio.UnaryUnaryCall[Any, Any]"
    term: int
    """The newest term known when it was sent, or the first one learnt after that."""
    is_given_up: bool = False


class TermWatch:
    """Asks the own member for its term, one question for all who wait.

    A request that is answered within `POLL_S` costs a timer and nothing more.
    """

    def __init__(self, channel: EtcdChannel) -> None:
        self._channel = channel
        self._late: set[_Outstanding] = set()
        self._polling: asyncio.Task[None] | None = None
        self.term = 0
        """The newest term known to have a leader; 0 before the first answer."""

    async def ask(self, method: Method[Request, Reply], request: Request) -> Reply:
        """Return the reply. Raises AioRpcError, NewTerm."""
        call = self._channel.begin(method, request)
        outstanding = _Outstanding(call, self.term)
        timer = asyncio.get_running_loop().call_later(POLL_S, self._is_late, outstanding)
        try:
            return await self._channel.reply(call)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if outstanding.is_given_up and task is not None and not task.cancelling():
                raise NewTerm from None
            raise
        finally:
            timer.cancel()
            self._late.discard(outstanding)

    def _is_late(self, outstanding: _Outstanding) -> None:
        self._late.add(outstanding)
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll(), name="etcd-term")

    async def _poll(self) -> None:
        """Learn the term for as long as a request is late."""
        while self._late:
            await self._learn()
            for outstanding in tuple(self._late):
                if self.term > outstanding.term > 0:
                    outstanding.is_given_up = True
                    outstanding.call.cancel()
                outstanding.term = outstanding.term or self.term
            await asyncio.sleep(POLL_S)

    async def _learn(self) -> None:
        try:
            status = await self._channel.ask(STATUS, pb.StatusRequest(), timeout_s=STATUS_S)
        except (grpc.aio.AioRpcError, Unavailable):
            return
        if status.leader:
            self.term = max(self.term, status.raftTerm)

    def close(self) -> None:
        """Ask no more."""
        if self._polling is not None:
            self._polling.cancel()
