"""Sessions of one manager over a real sealed store; the network alone is a fake."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from cluster.control.service_certificates import ServiceCertificates
from cluster.dispatcher.issue import Issue
from cluster.dispatcher.presence import Presence
from cluster.dispatcher.receipts import Receipts
from cluster.dispatcher.sessions import AgentSession, SessionParts
from cluster.engine.seam import Compare, Engine, Operation, Outcome, WatchBatch
from cluster.pki.node_envelope import NodeKeys, staged
from cluster.protocol import wire
from cluster.protocol.errors import SessionExpired
from cluster.protocol.ids import ManagerId, NodeId, SecretId, ServiceId, VersionNumber
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.barrier import FRESH_S
from cluster.store.records import ReceiptRecord, receipt_id
from cluster.store.sealed_store import SealedStore
from tests.support.clock import ManualClock
from tests.support.stores import StoreLab
from tests.unit.control.lab import MANAGER, ControlLab

M = TypeVar("M")
PATIENCE_S = 30.0
Hook = Callable[[], Awaitable[None]]


class WatchedEngine:
    """A port to a real engine: a test can act before a barrier, and hold the watch up.

    With a clock, answers come too late to serve as barriers while a test waits for one.
    """

    def __init__(self, engine: Engine, clock: ManualClock | None = None) -> None:
        self._engine = engine
        self._clock = clock
        self.before_barrier: Hook | None = None
        self.flowing = asyncio.Event()
        self.flowing.set()

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    async def transact(
        self, request_id: bytes, compares: Sequence[Compare], operations: Sequence[Operation]
    ) -> Outcome:
        """Pass on, slowly while a test waits for a barrier."""
        outcome = await self._engine.transact(request_id, compares, operations)
        if self.before_barrier is not None and self._clock is not None:
            self._clock.advance(FRESH_S)
        return outcome

    async def barrier(self) -> int:
        """Let the test act, then pass on."""
        if self.before_barrier is not None:
            await self.before_barrier()
        return await self._engine.barrier()

    async def watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[WatchBatch]:
        """Pass batches on while they may flow."""
        async for batch in self._engine.watch(prefix, from_revision):
            await self.flowing.wait()
            yield batch


class FakeLink:
    """The network port of a session: what was sent, and what the agent says."""

    def __init__(
        self, before_send: Callable[[wire.FromManager], Awaitable[None]], keys: NodeKeys
    ) -> None:
        self._keys = keys
        self.sent: list[wire.FromManager] = []
        self._before_send = before_send
        self._said: asyncio.Queue[wire.FromAgent | Exception] = asyncio.Queue()
        self._news = asyncio.Condition()
        self._read = 0

    async def send(self, message: wire.FromManager) -> None:
        """Take a message, as the wire would have it."""
        await self._before_send(message)
        async with self._news:
            self.sent.append(wire.decode_from_manager(wire.encode(message)))
            self._news.notify_all()

    async def receive(self) -> wire.FromAgent:
        """Return what the agent says next."""
        said = await self._said.get()
        if isinstance(said, Exception):
            raise said
        return said

    def say(self, message: wire.FromAgent | Exception) -> None:
        """Say something as the agent, or end the connection by an exception."""
        self._said.put_nowait(message)

    async def next(self, kind: type[M]) -> M:
        """Return the next message of a kind; what lies before it is passed over."""
        async with asyncio.timeout(PATIENCE_S), self._news:
            while True:
                while self._read < len(self.sent):
                    message = self.sent[self._read]
                    self._read += 1
                    if isinstance(message, kind):
                        return message
                await self._news.wait()

    def values(self) -> list[bytes]:
        """Return every value that was ever sent, opened as the node does."""
        return [value for m in self.sent if isinstance(m, wire.Values) for value in self.opened(m)]

    def opened(self, message: wire.Values) -> list[bytes]:
        """Return the values of one message."""
        (welcome,) = [one for one in self.sent if isinstance(one, wire.Welcome)]
        sealed = staged(message, welcome.suite, welcome.session_id)
        with self._keys.opening() as open_value:
            return [open_value(one).reveal() for one in sealed.values()]


class Talk:
    """A session under way, from the agent's end."""

    def __init__(self, session: AgentSession, link: FakeLink, running: asyncio.Task[None]) -> None:
        self.session = session
        self.link = link
        self.running = running

    async def ended(self) -> None:
        """Wait for the session's end and raise what ended it."""
        async with asyncio.timeout(PATIENCE_S):
            await self.running

    async def carry_out(self, manifest: wire.Snapshot | wire.Delta) -> None:
        """Ack a manifest as an honest agent does, and wait until the ack was taken in."""
        changed = manifest.services if isinstance(manifest, wire.Snapshot) else manifest.changed
        removed = () if isinstance(manifest, wire.Snapshot) else manifest.removed
        results = tuple(
            wire.ServiceResult(
                one.service_id,
                tuple(wire.VersionKey(file.secret_id, file.version) for file in one.files),
                spec_number=one.spec_number,
            )
            for one in changed
        )
        self.link.say(wire.Ack(manifest.revision, results, removed))
        await self.heard()

    async def heard(self) -> None:
        """Wait until everything that was said was taken in."""
        self.link.say(wire.LeaseRequest(77))
        while (await self.link.next(wire.Lease)).number != 77:
            pass


class DispatchLab(ControlLab):
    """The use cases and the dispatcher of one manager."""

    def __init__(self, stores: StoreLab, store: SealedStore, manager_id: str = MANAGER) -> None:
        super().__init__(stores, store)
        self.stores = stores
        own = ManagerId(manager_id)
        self.receipts = Receipts(store, self.clock, own)
        self.presence = Presence(store, self.clock, own)
        self.issue = Issue(store, self.receipts, self.entropy)
        self.parts = SessionParts(
            store=store,
            receipts=self.receipts,
            renewal=self.enrolment,
            certificates=ServiceCertificates(self.requests, self.issuer),
            presence=self.presence,
            clock=self.clock,
            entropy=self.entropy,
            manager_id=manager_id,
        )
        self.on_values: Hook | None = None
        store.view.subscribe(self.presence.on_change)

    async def running(self, *secrets: str, service: str = "red") -> NodeId:
        """Place a service with some secrets on a fresh node."""
        node_id = await self.join(f"node-of-{service}")
        for name in secrets:
            await self.secret(name, name.encode())
        await self.service(service, *secrets, constraints=(f"node.name==node-of-{service}",))
        await self.settle(self.duty())
        return node_id

    async def rotate(self, name: str, value: bytes) -> None:
        """Make a new primary version."""
        await self.secrets.rotate(self.context(), name, SecretBytes(value))

    async def remove_service(self, name: str) -> None:
        """Remove a service and its tasks."""
        await self.services.remove(self.context(), name)
        await self.settle(self.duty())

    async def evict(self, node_id: NodeId) -> None:
        """Remove a node."""
        stored = self.view.nodes.get(node_id)
        assert stored is not None
        await self.nodes.remove(self.context(), stored.record.name)

    def key_of(self, name: str, number: int = 1) -> wire.VersionKey:
        """Return the key of a secret's version."""
        stored = self.view.secret_by_name(name)
        assert stored is not None
        return wire.VersionKey(stored.record.id, number)

    def receipt(
        self, node_id: NodeId, name: str, number: int = 1, service: str = "red"
    ) -> ReceiptRecord | None:
        """Return a receipt as the view shows it."""
        stored = self.view.service_by_name(service)
        assert stored is not None
        found = self.view.receipts.get(
            receipt_id(
                SecretId(self.key_of(name).secret_id),
                VersionNumber(number),
                node_id,
                ServiceId(stored.record.id),
            )
        )
        return found.record if found else None

    @asynccontextmanager
    async def talk(
        self,
        node_id: NodeId,
        *held: wire.VersionKey,
        highest: wire.RevisionPair | None = None,
        hello: wire.FromAgent | None = None,
    ) -> AsyncIterator[Talk]:
        """Open a session of a node; every value it sends must have an open receipt by then."""

        async def before_send(message: wire.FromManager) -> None:
            if isinstance(message, wire.Values):
                for value in message.values:
                    assert await self._has_receipt_on_disk(node_id, value), value
                if self.on_values is not None:
                    await self.on_values()

        keys = NodeKeys.generate(node_id)
        link = FakeLink(before_send, keys)
        session = AgentSession(self.parts, node_id, link, "127.0.0.1")
        link.say(hello or hello_of(*held, highest=highest, envelope_keys=keys.public_keys()))
        running = asyncio.create_task(session.run())
        talk = Talk(session, link, running)
        try:
            yield talk
        finally:
            link.say(SessionExpired())
            with suppress(Exception):
                await talk.ended()

    async def _has_receipt_on_disk(self, node_id: NodeId, value: wire.Value) -> bool:
        """Look for an open receipt through a store of its own: what another manager would see."""
        other = await self.stores.open("witness", self.entropy.token(8).hex())
        return any(
            (one.record.secret_id, one.record.version) == (value.secret_id, value.version)
            and one.record.dropped_at is None
            for one in other.view.receipts_of_node(node_id)
        )


def hello_of(
    *held: wire.VersionKey,
    highest: wire.RevisionPair | None = None,
    formats: tuple[int, ...] = (1,),
    envelope_keys: tuple[wire.EnvelopeKey, ...] = (),
) -> wire.Hello:
    """Return an agent's hello."""
    return wire.Hello(formats, "1.0", "boot", "kernel", "secure", held, highest, envelope_keys)
