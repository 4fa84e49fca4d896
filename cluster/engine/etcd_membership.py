"""Who belongs to the etcd cluster: add, promote, remove, list, move the lead.

Owns the retries etcd's safety checks ask for; when to change what is the caller's decision. Every
step repeats safely. etcd refuses a change until all voters have been connected for 5 s ("unhealthy
cluster") and a promotion until the learner has caught up. Add learners only: an unstarted voter
beside a single member stops every write. Source: etcd 3.4 learner design, ADR 0002.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

import grpc
import grpc.aio

from cluster.engine import etcd_pb2 as pb
from cluster.engine.etcd_channel import (
    MEMBER_ADD,
    MEMBER_LIST,
    MEMBER_PROMOTE,
    MEMBER_REMOVE,
    MOVE_LEADER,
    EtcdChannel,
    Method,
    Reply,
    Request,
)
from cluster.engine.seam import EngineMember
from cluster.protocol.errors import Conflict, Unavailable

PATIENCE_S: Final = 20.0
RETRY_S: Final = 0.2
CALL_S: Final = 8.0
SCHEME: Final = "https://"
FINAL_CODES: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
    }
)
PASSING_REFUSALS: Final = ("in sync with leader", "too many learner", "unhealthy cluster")


class EtcdMembership:
    """The membership calls of one member."""

    def __init__(self, channel: EtcdChannel) -> None:
        self._channel = channel

    async def members(self) -> tuple[EngineMember, ...]:
        """Return the members as this one knows them. Raises Unavailable."""
        reply = await self._insist(MEMBER_LIST, pb.MemberListRequest())
        return engine_members(reply.members)

    async def add_learner(self, peer_address: str) -> tuple[EngineMember, ...]:
        """Add a learner at host:port and return all members; one that is there already is kept.

        The new one has no name until it was started. Raises Unavailable after `PATIENCE_S`.
        """
        url = SCHEME + peer_address
        request = pb.MemberAddRequest(peerURLs=[url], isLearner=True)
        # a member of that address that was removed within the second has the same id
        passing = ("member not found",)
        done = ("Peer URLs already exists", "member ID already exist")
        await self._insist(MEMBER_ADD, request, passing=passing, done=done)
        return await self.members()

    async def promote(self, member_id: int) -> tuple[EngineMember, ...]:
        """Make a learner a voter once it has caught up; return all members. Raises Unavailable."""
        request = pb.MemberPromoteRequest(ID=member_id)
        await self._insist(MEMBER_PROMOTE, request, done=("can only promote a learner member$",))
        return await self.members()

    async def remove_member(self, member_id: int) -> tuple[EngineMember, ...]:
        """Remove a member, which then ends by itself; return the rest. Raises Unavailable."""
        request = pb.MemberRemoveRequest(ID=member_id)
        await self._insist(MEMBER_REMOVE, request, done=("member not found",))
        return await self.members()

    async def move_leader(self, member_id: int) -> None:
        """Hand the lead to another voter. Raises Conflict unless the own member leads."""
        await self._insist(MOVE_LEADER, pb.MoveLeaderRequest(targetID=member_id))

    async def _insist(
        self,
        method: Method[Request, Reply],
        request: Request,
        *,
        passing: Iterable[str] = (),
        done: Iterable[str] = (),
    ) -> Reply:
        """Ask until it is accepted, refused for good, or `PATIENCE_S` is over.

        `passing`: more refusals that pass by themselves. `done`: refusals which say that an earlier
        attempt succeeded; one with a final $ is the whole text.
        """
        last = "no answer"
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    try:
                        return await self._channel.ask(method, request, timeout_s=CALL_S)
                    except grpc.aio.AioRpcError as error:
                        last = error.details() or error.code().name
                        if _matches(last, done):
                            return method.reply()
                        is_passing = _matches(last, (*PASSING_REFUSALS, *passing))
                        if error.code() in FINAL_CODES and not is_passing:
                            raise Conflict(f"the storage engine refuses: {last}") from None
                    await asyncio.sleep(RETRY_S)
        except TimeoutError:
            raise Unavailable(
                f"the engine's members could not be changed ({last}); check that all managers run"
            ) from None


def _matches(text: str, patterns: Iterable[str]) -> bool:
    return any(text.endswith(p[:-1]) if p.endswith("$") else p in text for p in patterns)


def engine_members(members: Iterable[pb.Member]) -> tuple[EngineMember, ...]:
    """Return members in the seam's terms, by id."""
    return tuple(
        EngineMember(
            member.ID,
            member.name,
            member.peerURLs[0].removeprefix(SCHEME) if member.peerURLs else "",
            member.isLearner,
        )
        for member in sorted(members, key=lambda member: member.ID)
    )
