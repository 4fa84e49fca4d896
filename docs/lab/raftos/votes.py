"""One node, and two candidates who ask it for its vote in the same term, with a power cut between.

A node that votes twice in a term can make two leaders of it. The candidates are played here: they
speak the nodes' own protocol. Here raftos' datagrams; `etcd_votes` does the same over etcd's HTTP.
"""

import asyncio
import json
from pathlib import Path
from typing import Any, cast

from docs.lab.layout import HOST
from docs.lab.raftos.checks import LIMIT_S, Observed
from docs.lab.raftos.raftos_cluster import Node, command_line, free_ports

TERM = 50
_NEVER_S = 1_000.0
"""A heartbeat so slow that the node does not stand for election itself meanwhile."""


class Candidate(asyncio.DatagramProtocol):
    """Speaks for a node that stands for election, in raftos' datagrams."""

    def __init__(self) -> None:
        self._replies: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002
        self._replies.put_nowait(json.loads(data))

    @property
    def address(self) -> str:
        """host:port, its name among the nodes."""
        assert self._transport is not None
        host, port = self._transport.get_extra_info("sockname")
        return f"{host}:{port}"

    async def has_vote(self, voter: int) -> bool:
        """Ask for a vote in `TERM`, and return whether it is granted.

        raftos does not answer a request that it does not grant. It does answer one of an old term,
        which is sent behind the other: what comes first tells.
        """
        for term in (TERM, TERM - 1):
            self._send(voter, term)
        reply = await self._replies.get()
        if reply["term"] == TERM and reply.get("vote_granted"):
            await self._replies.get()
            return True
        return False

    def close(self) -> None:
        """Let go of the socket."""
        if self._transport is not None:
            self._transport.close()

    def _send(self, voter: int, term: int) -> None:
        assert self._transport is not None
        request = {
            "type": "request_vote",
            "term": term,
            "candidate_id": self.address,
            "last_log_index": 0,
            "last_log_term": 0,
        }
        self._transport.sendto(json.dumps(request).encode(), (HOST, voter))


async def raftos_votes(python: Path, directory: Path) -> Observed:
    """Return to whom a node of raftos gives its vote."""
    loop = asyncio.get_running_loop()
    candidates = [
        (await loop.create_datagram_endpoint(Candidate, local_addr=(HOST, 0)))[1] for _ in range(2)
    ]
    (port,) = free_ports(1)
    peers = [one.address for one in candidates]
    words = command_line(python, f"{HOST}:{port}", peers, directory / "voter", _NEVER_S)
    voter = Node("voter", words, directory / "voter.log")
    try:
        async with asyncio.timeout(LIMIT_S):
            await voter.start()
            before = [await one.has_vote(port) for one in candidates]
            await voter.kill()
            await voter.start()
            after = [await candidates[1].has_vote(port)]
    finally:
        await voter.kill()
        for one in candidates:
            one.close()
    return observed(before, after)


def observed(before: list[bool], after: list[bool]) -> Observed:
    """Return what two candidates got, and the second one again after the restart."""
    return {
        f"candidates that have its vote of term {TERM}": sum(before),
        "after kill -9 and a restart": sum(before) + sum(after),
    }
