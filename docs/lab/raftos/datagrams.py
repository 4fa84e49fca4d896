"""A network for raftos on loopback: every pair of nodes has a way of its own, and any can be cut.

raftos knows a peer by the address its datagrams come from. So each node is given an address for
each peer, at which this relay listens for what goes there and from which it sends what comes.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from functools import partial
from typing import Self

from docs.lab.layout import HOST

Address = tuple[str, int]
RECEIVE_BYTES = 1 << 20


class _End(asyncio.DatagramProtocol):
    """Where one node sends what is for another."""

    def __init__(self, relay: "DatagramRelay", source: str, target: str) -> None:
        self._relay = relay
        self._way = (source, target)

    def datagram_received(self, data: bytes, addr: Address) -> None:  # noqa: ARG002
        self._relay.pass_on(*self._way, data)


class DatagramRelay:
    """Passes datagrams on between nodes, except over what is cut."""

    def __init__(self, nodes: Mapping[str, Address]) -> None:
        self._nodes = dict(nodes)
        self._ends: dict[tuple[str, str], asyncio.DatagramTransport] = {}
        self._cut: set[frozenset[str]] = set()
        self.lost: Counter[tuple[str, str]] = Counter()
        """How many were lost on which way since the cut."""

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for source in self._nodes:
            for target in self._nodes:
                if source != target:
                    self._ends[source, target], _ = await loop.create_datagram_endpoint(
                        partial(_End, self, source, target), local_addr=(HOST, 0)
                    )
        return self

    async def __aexit__(self, *_: object) -> None:
        for end in self._ends.values():
            end.close()

    def address(self, source: str, target: str) -> str:
        """Return what one node calls another: host:port."""
        host, port = self._ends[source, target].get_extra_info("sockname")
        return f"{host}:{port}"

    def cut(self, one: Collection[str], other: Collection[str]) -> None:
        """Lose everything between two groups of nodes, without a word."""
        self._cut = {frozenset((a, b)) for a in one for b in other}
        self.lost.clear()

    def heal(self) -> None:
        """Pass everything on again."""
        self._cut.clear()

    def pass_on(self, source: str, target: str, datagram: bytes) -> None:
        """Send a datagram on its way, as what the target knows its source by."""
        if frozenset((source, target)) in self._cut:
            self.lost[source, target] += 1
            return
        self._ends[target, source].sendto(datagram, self._nodes[target])
