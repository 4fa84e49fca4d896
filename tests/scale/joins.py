"""How a fleet joins: each agent by the API, with a key of its own, from an address of its own.

The join listener takes five requests a second of one address after the first fifty, so each of the
callers changes its address before that. Keys and certificates are stored as the agent stores them.
"""

import asyncio
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from agent.identity import AgentIdentity, DataDirectory, check_leaf
from agent.joining import _read, _settle, fetch_bundle
from cluster.pki.join_token import JoinToken
from cluster.pki.tls import client_context
from cluster.pki.trust_bundle import TrustBundle
from cluster.protocol.https_client import Response
from tests.scale.calls import Call, Caller
from tests.scale.sources import address_of, source_address

CALLERS: Final = 64
_PER_ADDRESS: Final = 40
_JOIN_ADDRESSES: Final = 2_000_000
"""Addresses of joiners are counted from here; the agents' own from 0."""


async def join_all(managers: Sequence[str], tokens: Sequence[str], places: dict[str, Path]) -> None:
    """Join every agent of `places` (name -> its data directory), each once.

    `tokens`: one for each of the callers, so that they do not wait for each other's count.
    """
    token = JoinToken.parse(tokens[0])
    _, bundle = await asyncio.to_thread(fetch_bundle, managers, token.root_digest)
    waiting = iter(places.items())
    async with asyncio.TaskGroup() as group:
        for number, text in enumerate(tokens):
            joiner = _Joiner(managers[number % len(managers)], text, bundle, number * 10_000)
            group.create_task(joiner.work(waiting))


class _Joiner:
    """One caller of the join listener."""

    def __init__(self, endpoint: str, token: str, bundle: TrustBundle, number: int) -> None:
        self._endpoint = endpoint
        self._token = token
        self._digest = JoinToken.parse(token).root_digest
        self._bundle = bundle
        self._next_address = _JOIN_ADDRESSES + number
        self._left = 0
        self._caller: Caller | None = None

    async def work(self, waiting: Iterator[tuple[str, Path]]) -> None:
        """Join agents until none waits."""
        for name, data_dir in waiting:
            await self._join(name, data_dir)
        if self._caller is not None:
            await self._caller.close()

    async def _join(self, name: str, data_dir: Path) -> None:
        data = DataDirectory(data_dir)
        data.prepare()
        pending = data.pending_request()
        asked = {"token": self._token, "csr": b64encode(pending.csr).decode(), "name": name}
        caller = await self._connected()
        content = await caller.ask(Call("POST", "/v1/join", msgspec.json.encode(asked)))
        reply, bundle = _read(Response(200, {}, content))
        bundle.verify(self._digest)
        identity = AgentIdentity(
            name=name,
            id=check_leaf(reply.certificate_chain, pending.key, bundle),
            key=pending.key,
            chain=reply.certificate_chain,
            bundle=bundle,
            managers=reply.managers,
            join_addresses=reply.join_addresses,
        )
        _settle(data, identity)

    async def _connected(self) -> Caller:
        if self._caller is None or self._left == 0:
            if self._caller is not None:
                await self._caller.close()
            source_address.set(address_of(self._next_address))
            self._next_address, self._left = self._next_address + 1, _PER_ADDRESS
            context = client_context(self._bundle.control)
            self._caller = await Caller.connect(self._endpoint, context)
        self._left -= 1
        return self._caller
