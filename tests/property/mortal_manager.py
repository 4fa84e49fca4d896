"""A manager that dies at a chosen step and starts again on the same file, and what it delivered.

Its engine and its connections are ports to real ones behind one fuse: each transaction can die
before it is sent and after it was applied, each barrier and each message before it is sent. What
left the manager by then counts as delivered, whether or not anybody answered.
"""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Self, cast

from cluster.dispatcher.assignments import assignments_of
from cluster.dispatcher.sessions import AgentSession, ViewRecords
from cluster.engine.seam import Compare, Engine, Operation, Outcome, WatchBatch
from cluster.engine.sqlite import SqliteEngine
from cluster.pki.node_envelope import ISSUE, NodeKeys, Recipient
from cluster.protocol import wire
from cluster.protocol.errors import ClusterError, SessionExpired
from cluster.protocol.ids import NodeId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.keyring import Keyring
from tests.support.clock import ManualClock
from tests.support.stores import StoreLab, initialised
from tests.unit.dispatcher.lab import DispatchLab, FakeLink, hello_of

NODES = ("n1", "n2")
SECRETS = ("db", "key")
PATIENCE_S = 30.0
Delivery = tuple[str, str, int]
"""(node id, secret id, version)."""


class Died(Exception):  # noqa: N818  # what happened to the manager
    """The manager is dead; nothing it does has any effect."""


class Fuse:
    """Counts the steps of one life, and ends it at one of them."""

    def __init__(self, blow_at: int | None = None) -> None:
        """`blow_at`: the number, from 0, of the step that is not taken any more; None: never."""
        self.blow_at = blow_at
        self.steps: list[str] = []
        self.gone = asyncio.Event()

    def step(self, name: str) -> None:
        """Take a step, or die."""
        if self.gone.is_set() or len(self.steps) == self.blow_at:
            self.gone.set()
            raise Died(name)
        self.steps.append(name)


class MortalEngine:
    """A port to a real engine, behind a fuse."""

    def __init__(self, engine: Engine, fuse: Fuse) -> None:
        self._engine = engine
        self._fuse = fuse

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    async def transact(
        self, request_id: bytes, compares: tuple[Compare, ...], operations: tuple[Operation, ...]
    ) -> Outcome:
        """Die before it is sent, or after it was applied and before its answer."""
        self._fuse.step("transact")
        outcome = await self._engine.transact(request_id, compares, operations)
        self._fuse.step("answer")
        return outcome

    async def barrier(self) -> int:
        """Die before it."""
        self._fuse.step("barrier")
        return await self._engine.barrier()

    async def watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[WatchBatch]:
        """Show nothing more to the dead."""
        async for batch in self._engine.watch(prefix, from_revision):
            if self._fuse.gone.is_set():
                raise Died("watch")
            yield batch


class World:
    """One file, the manager that lives on it, and everything that ever left a manager."""

    def __init__(self, path: Path, keyring: Keyring, root_key: SecretBytes, seed: int) -> None:
        self.path = path
        self.delivered: set[Delivery] = set()
        self.lives = 0
        self.fuse = Fuse()
        self._keys = keyring, root_key
        self._seed = seed
        self._stores: StoreLab | None = None
        self._lab: DispatchLab | None = None

    @classmethod
    async def found(cls, path: Path, seed: int) -> Self:
        """Return a world with two nodes and a service on both that refers to two secrets."""
        stores = await initialised(await SqliteEngine.open(path, ManualClock()), seed)
        lab = DispatchLab(stores, await stores.open("m1", "founder"))
        await lab.initialise()
        for name in NODES:
            await lab.join(name)
        for name in SECRETS:
            await lab.secret(name, name.encode())
        await lab.service("red", *SECRETS, is_global=True)
        await lab.settle(lab.duty())
        await stores.close()
        return cls(path, stores.keyring, stores.root_key, seed)

    def copied(self, path: Path) -> "World":
        """Return another world that goes on from here, while nobody lives in this one."""
        shutil.copy(self.path, path)
        return World(path, *self._keys, self._seed)

    @property
    def lab(self) -> DispatchLab:
        """The living manager."""
        assert self._lab is not None
        return self._lab

    async def live(self, fuse: Fuse | None = None) -> None:
        """Start a manager, with a fuse from the moment that it serves."""
        await self.die()
        self.lives += 1
        self.fuse = Fuse()
        engine = await SqliteEngine.open(self.path, ManualClock())
        keyring, root_key = self._keys
        # Not the seed of the founder, whose request ids would come again.
        self._stores = StoreLab(engine, keyring, root_key, self._seed + 1 + self.lives)
        mortal = cast("Engine", MortalEngine(engine, self.fuse))
        store = await self._stores.open("m1", f"life-{self.lives}", engine=mortal)
        self._lab = DispatchLab(self._stores, store)
        if fuse is not None:
            self.fuse.steps.clear()
            self.fuse.blow_at = fuse.blow_at

    async def die(self) -> None:
        """End the manager where it is."""
        if self._stores is not None:
            self.fuse.gone.set()
            await self._stores.close()
        self._stores = self._lab = None

    async def attempt(self, act: Awaitable[object]) -> bool:
        """Do something unless the manager dies meanwhile; return whether it lived."""
        acting = asyncio.ensure_future(act)
        dying = asyncio.create_task(self.fuse.gone.wait())
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.wait((acting, dying), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (acting, dying):
                task.cancel()
            results = await asyncio.gather(acting, dying, return_exceptions=True)
        if self.fuse.gone.is_set():
            return False
        if isinstance(results[0], BaseException):
            raise results[0]
        return True

    def node_id(self, name: str) -> NodeId:
        """Return a node's id, evicted or not."""
        return next(
            NodeId(stored.record.id)
            for stored in self.lab.view.nodes.values()
            if stored.record.name == name
        )

    async def deliver(self, name: str) -> None:
        """Open a session of a node and let its agent carry out the first manifest."""
        node_id = self.node_id(name)
        keys = NodeKeys.generate(node_id)
        link = FakeLink(lambda message: self._leave(node_id, message), keys)
        session = AgentSession(self.lab.parts, node_id, link, "127.0.0.1")
        link.say(hello_of(envelope_keys=keys.public_keys()))
        running = asyncio.create_task(session.run())
        try:
            manifest = asyncio.create_task(link.next(wire.Snapshot))
            await asyncio.wait((running, manifest), return_when=asyncio.FIRST_COMPLETED)
            manifest.cancel()
            if manifest.done() and not manifest.cancelled():
                link.say(_ack(manifest.result()))
            link.say(SessionExpired())
            await asyncio.wait([running])
        finally:
            running.cancel()
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await running

    async def issue(self, name: str) -> None:
        """Ask for one secret by the node's certificate."""
        node_id = self.node_id(name)
        keys = NodeKeys.generate(node_id).public_keys()
        recipient = Recipient.choose(keys, node_id, ISSUE)
        for assignment in assignments_of(ViewRecords(self.lab.view), node_id).values():
            for file in assignment.files[:1]:
                with contextlib.suppress(ClusterError):
                    issued = await self.lab.issue.issue(
                        node_id, assignment.name, file.name, recipient
                    )
                    self.delivered.add((node_id, file.secret_id, issued.version))

    async def _leave(self, node_id: NodeId, message: wire.FromManager) -> None:
        """Take a message that leaves the manager."""
        self.fuse.step(type(message).__name__)
        if isinstance(message, wire.Values):
            self.delivered |= {(node_id, one.secret_id, one.version) for one in message.values}


def _ack(manifest: wire.Snapshot) -> wire.Ack:
    results = tuple(
        wire.ServiceResult(
            one.service_id,
            tuple(wire.VersionKey(file.secret_id, file.version) for file in one.files),
            spec_number=one.spec_number,
        )
        for one in manifest.services
    )
    return wire.Ack(manifest.revision, results)
