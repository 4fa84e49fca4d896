"""A node that speaks the wire protocol and writes down every message, to judge the deliveries.

A process of its own: `python -m tests.faults.probe DATA_DIR OUTPUT SEED ADDRESS ...`. It connects
to a manager drawn at random, takes what it is given, acks it as mounted, and leaves after a few
seconds for another one. A line of the output is one message, without any value.
"""

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from agent.identity import DataDirectory
from cluster.pki.node_envelope import NodeKeys
from cluster.pki.tls import client_context
from cluster.protocol import wire

STAY_S: Final = (0.5, 6.0)
ASK_S: Final = (0.2, 1.2)
OPEN_S: Final = 5.0


class Probe:
    """The node and what it holds."""

    def __init__(self, data: Path, output: TextIO, draw: random.Random) -> None:
        self._identity = DataDirectory(data).fetch_identity()
        self._keys = NodeKeys.generate(self._identity.id.subject).public_keys()
        """Values are sealed to these, and never opened here."""
        self._output = output
        self._random = draw
        self._session = 0
        self._highest: wire.RevisionPair | None = None
        self._held: set[wire.VersionKey] = set()
        self._settled = asyncio.Event()
        """The snapshot that was asked for last has come."""

    async def run(self, addresses: Sequence[str]) -> None:
        """Visit managers for ever."""
        while True:
            try:
                await self._visit(self._random.choice(addresses))
            except (OSError, TimeoutError, WebSocketException):
                await asyncio.sleep(self._random.uniform(0.1, 1.0))

    async def _visit(self, address: str) -> None:
        identity = self._identity
        context = client_context(identity.bundle.control, identity.chain_pem, identity.key_pem)
        async with connect(
            f"wss://{address}/v1/session", ssl=context, compression=None,
            max_size=wire.MAX_MESSAGE_BYTES, open_timeout=OPEN_S, close_timeout=1, proxy=None,
        ) as link:  # fmt: skip
            self._session += 1
            # Half of the sessions know nothing, as after a disk was replaced.
            highest = self._highest
            if self._random.random() < 0.5:
                self._held.clear()
                highest = None
            self._write("hello", manager=address, highest=_number(highest))
            held = self._holds()
            hello = wire.Hello(
                (wire.FORMAT,), "probe", "probe", "kernel", "", held, highest, self._keys
            )
            await link.send(wire.encode(hello))
            self._settled.clear()
            asking = asyncio.create_task(self._ask_again(link))
            try:
                async with asyncio.timeout(self._random.uniform(*STAY_S)):
                    await self._listen(link)
            except TimeoutError:
                return
            finally:
                asking.cancel()

    def _holds(self) -> tuple[wire.VersionKey, ...]:
        return tuple(sorted(self._held, key=lambda key: (key.secret_id, key.version)))

    async def _ask_again(self, link: ClientConnection) -> None:
        """Ask for a whole snapshot every now and then, never for two at a time: each must be as
        fresh as what was acknowledged before it was asked for."""
        with contextlib.suppress(WebSocketException, OSError):
            while True:
                await self._settled.wait()
                await asyncio.sleep(self._random.uniform(*ASK_S))
                self._settled.clear()
                self._write("resync")
                await link.send(wire.encode(wire.Resync(self._holds())))

    async def _listen(self, link: ClientConnection) -> None:
        services: dict[str, wire.ServiceAssignment] = {}
        async for frame in link:
            assert isinstance(frame, bytes)
            match wire.decode_from_manager(frame):
                case wire.Values(values=values):
                    keys = [wire.VersionKey(one.secret_id, one.version) for one in values]
                    self._held.update(keys)
                    self._write("values", keys=[[*_pair(key)] for key in keys])
                case wire.Snapshot() as snapshot:
                    dropped = tuple(services.keys() - {one.service_id for one in snapshot.services})
                    services = {one.service_id: one for one in snapshot.services}
                    self._manifest("snapshot", snapshot.revision, None, services)
                    self._settled.set()
                    await self._ack(link, snapshot.revision, services.values(), dropped)
                case wire.Delta() as delta:
                    services.update({one.service_id: one for one in delta.changed})
                    for gone in delta.removed:
                        services.pop(gone, None)
                    self._manifest("delta", delta.revision, delta.base, services)
                    await self._ack(link, delta.revision, delta.changed, delta.removed)
                case wire.Wipe() | wire.Refusal() as end:
                    self._write(type(end).__name__.lower())
                case _:
                    pass

    async def _ack(
        self,
        link: ClientConnection,
        revision: wire.RevisionPair,
        changed: Any,  # noqa: ANN401  # any collection of assignments
        dropped: tuple[str, ...],
    ) -> None:
        self._highest = revision
        results = tuple(
            wire.ServiceResult(
                one.service_id,
                tuple({wire.VersionKey(file.secret_id, file.version) for file in one.files}),
                "",
                one.spec_number,
            )
            for one in changed
        )
        await link.send(wire.encode(wire.Ack(revision, results, dropped)))

    def _manifest(
        self,
        kind: str,
        revision: wire.RevisionPair,
        base: wire.RevisionPair | None,
        services: dict[str, wire.ServiceAssignment],
    ) -> None:
        files = [
            (one.service_id, file.secret_id, file.version)
            for one in services.values()
            for file in one.files
        ]
        missing = [
            [secret_id, version]
            for _, secret_id, version in files
            if wire.VersionKey(secret_id, version) not in self._held
        ]
        # What is no longer assigned is dropped, so it has to be sent again if it comes back.
        self._held &= {wire.VersionKey(secret_id, version) for _, secret_id, version in files}
        self._write(
            kind, revision=revision.number, base=_number(base), files=files, missing=missing
        )

    def _write(self, kind: str, **more: object) -> None:
        line = {"at": time.monotonic(), "session": self._session, "kind": kind, **more}
        self._output.write(json.dumps(line) + "\n")
        self._output.flush()


def _number(pair: wire.RevisionPair | None) -> int | None:
    return pair.number if pair is not None else None


def _pair(key: wire.VersionKey) -> tuple[str, int]:
    return key.secret_id, key.version


async def _main(data: Path, output: Path, seed: str, addresses: Sequence[str]) -> None:
    with output.open("w") as lines:
        await Probe(data, lines, random.Random(seed)).run(addresses)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:]))
