"""Agent sessions: what happens on one WebSocket between a manager and a node.

Two tasks serve a session. The *reader* answers what the agent sends (acks, lease requests, signing
requests). The *pusher* waits for a change that affects the node and delivers it: receipts first,
then a barrier, then everything is decided once more from the view at that revision, and only then
are values opened and sent. Nothing is sent that was not authorised after the request. Source: ADR
0006, DESIGN "From manager to file".
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import structlog

from cluster.dispatcher.assignments import Assigned, assignments_of, difference, versions_of
from cluster.dispatcher.health_notes import HealthNotes
from cluster.dispatcher.log_calls import LogCalls
from cluster.dispatcher.manager_addresses import managers_of
from cluster.dispatcher.manifests import manifest_of
from cluster.dispatcher.presence import Presence
from cluster.dispatcher.receipts import Receipts
from cluster.dispatcher.sealed_values import sealed_values
from cluster.dispatcher.session_ports import Link, Renewal, ServiceCertificates
from cluster.pki.node_envelope import Recipient
from cluster.protocol import wire
from cluster.protocol.errors import (
    ClusterError,
    Conflict,
    Evicted,
    PermissionDenied,
    SessionExpired,
    TransactionTooLarge,
    Unavailable,
)
from cluster.protocol.ids import (
    Incarnation,
    NodeId,
    Revision,
    SecretId,
    ServiceId,
    VersionNumber,
    format_id,
)
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import (
    HeldSpec,
    ServiceRecord,
    TaskRecord,
    VersionedRecord,
)
from cluster.store.sealed_store import SealedStore
from cluster.store.view import View
from cluster.system import Clock, Entropy

log = structlog.get_logger(__name__)

WIPE_TIMEOUT_S: Final = 2.0
"""How long an evicted agent may take to ack the Wipe before it is cut."""
HELLO_TIMEOUT_S: Final = 10.0
RENEWALS: Final = 4
"""Certificates that one session is given at most: each is an entry of the audit."""
RETRY_S: Final = 0.5
DECISIONS: Final = 8
"""How often a delivery is decided again when the records move under it, before it backs off."""


@dataclass(frozen=True, slots=True)
class ViewRecords:
    """Lets the pure assignment code read the view."""

    view: View

    def tasks_of_node(self, node_id: NodeId) -> Iterable[TaskRecord]:
        """Return the tasks of a node."""
        return [stored.record for stored in self.view.tasks_of_node(node_id)]

    def service(self, service_id: ServiceId) -> ServiceRecord | None:
        """Return a service."""
        stored = self.view.services.get(service_id)
        return stored.record if stored else None

    def secret(self, secret_id: SecretId) -> VersionedRecord | None:
        """Return the metadata of a secret or a config."""
        stored = self.view.source(secret_id)
        return stored.record if stored else None

    def held_spec(self, task: TaskRecord) -> HeldSpec | None:
        """Return the spec an open rollout keeps for a task."""
        return self.view.holds.spec(task)

    def held_version(self, task: TaskRecord, secret_id: SecretId) -> VersionNumber | None:
        """Return the version an open rollout keeps for a task."""
        return self.view.holds.version(task, secret_id)


@dataclass(frozen=True, slots=True)
class SessionParts:
    """What every session of a manager shares."""

    store: SealedStore
    receipts: Receipts
    renewal: Renewal
    certificates: ServiceCertificates
    presence: Presence
    clock: Clock
    entropy: Entropy
    manager_id: str
    assigned: Assigned = field(default_factory=Assigned)
    """What one node's session computed, for the others."""


@dataclass(slots=True)
class AgentSession:
    """One agent's session, from Hello to the end of the connection."""

    parts: SessionParts
    node_id: NodeId
    link: Link
    address: str
    session_id: str = ""
    _sent: dict[str, wire.ServiceAssignment] = field(default_factory=dict)
    _held: set[wire.VersionKey] = field(default_factory=set)
    _managers: wire.Managers | None = None
    """What the agent was told last of where managers listen."""
    _base: wire.RevisionPair | None = None
    _snapshot_due: bool = True
    _resyncs: int = 0
    """Asked for so far: what was begun before one is too old to answer it."""
    _recipient: Recipient = field(init=False)
    """Whom values are sealed for; chosen from the Hello."""
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _wiped: asyncio.Event = field(default_factory=asyncio.Event)
    _renewals: int = 0
    _health: HealthNotes = field(init=False)
    _logs: LogCalls = field(default_factory=LogCalls)
    _owed: bool = False
    """Whether receipts were issued since the last manifest: its ack settles what it leaves out."""
    _settling: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while an ack is written: it may end receipts that a decision would rest on."""

    def __post_init__(self) -> None:
        self._health = HealthNotes(self.parts.store, self.parts.clock, self.node_id)

    def wake(self) -> None:
        """Tell the session that something of its node changed."""
        self._wake.set()

    async def fetch_logs(
        self, service_id: ServiceId, tail: int, after_s: float | None
    ) -> wire.LogChunk:
        """Return lines of a service's output on the node. Raises Unavailable, SessionExpired."""
        return await self._logs.ask(self.link, service_id, tail, after_s)

    async def run(self) -> None:
        """Serve the session until the connection ends or the node is evicted."""
        hello = await self._open()
        try:
            await self.parts.presence.opened(self, hello)
            self.wake()
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read())
                pusher = group.create_task(self._push())
                done, _ = await asyncio.wait((reader, pusher), return_when=asyncio.FIRST_COMPLETED)
                for task in {reader, pusher} - done:
                    task.cancel()
        except* (SessionExpired, Evicted) as group_error:
            log.info(
                "session.ended", session_id=self.session_id, reason=str(group_error.exceptions[0])
            )
        finally:
            self.parts.presence.closed(self)
            self._logs.end()

    async def _open(self) -> wire.Hello:
        try:
            hello = await asyncio.wait_for(self.link.receive(), HELLO_TIMEOUT_S)
        except TimeoutError:
            raise SessionExpired("no hello") from None
        if not isinstance(hello, wire.Hello):
            raise PermissionDenied("a session starts with a hello")
        if wire.FORMAT not in hello.formats:
            await self.link.send(
                wire.Refusal(
                    "invalid_request",
                    f"this manager speaks format {wire.FORMAT}; upgrade the agent",
                )
            )
            raise SessionExpired
        if hello.highest is not None:
            # No agent is served from a state older than one it has seen.
            await self.parts.store.catch_up(_revision(hello.highest))
        self.session_id = format_id(self.parts.entropy.token(16))
        self._recipient = Recipient.choose(hello.envelope_keys, self.node_id, self.session_id)
        self._held = set(hello.held)
        cluster = self.parts.store.cluster
        managers = self._managers = managers_of(self.parts.store.view)
        await self.link.send(
            wire.Welcome(
                format=wire.FORMAT,
                session_id=self.session_id,
                manager_id=self.parts.manager_id,
                lease_s=cluster.lease_s,
                managers=managers.managers,
                join_addresses=managers.join_addresses,
                suite=self._recipient.suite,
            )
        )
        log.info("session.opened", session_id=self.session_id, node_id=self.node_id)
        return hello

    # --- reader ---

    async def _read(self) -> None:
        while True:
            match await self.link.receive():
                case wire.Ack() as ack:
                    await self._acked(ack)
                case wire.Resync(held=held):
                    self._held = set(held)
                    self._snapshot_due = True
                    self._resyncs += 1
                    self.wake()
                case wire.SigningRequest(csr=csr):
                    await self._renew(csr)
                case wire.LeaseRequest(number=number):
                    await self._prolong(number)
                case wire.Hello():
                    raise SessionExpired("a second hello")
                case wire.HealthReport() as report:
                    self._health.take(report)
                    self.wake()
                case wire.ServiceSigningRequest() as asked:
                    await self._sign_service(asked)
                case wire.LogChunk() as chunk:
                    self._logs.take(chunk)

    async def _acked(self, ack: wire.Ack) -> None:
        if not (ack.services or ack.dropped):
            # The answer to a Wipe; an ack that was on its way before it reports services.
            if not self._is_admitted():
                await self.parts.receipts.wiped(self.node_id)
            self._wiped.set()
        for result in ack.services:
            if (assignment := self._sent.get(result.service_id)) is not None:
                self._held |= versions_of(assignment).intersection(result.mounted)
        async with self._settling:
            await self.parts.receipts.acknowledge(self.node_id, ack, self._sent, self._base)

    async def _renew(self, csr: bytes) -> None:
        self._renewals += 1
        if self._renewals > RENEWALS:
            raise SessionExpired("too many renewals")
        try:
            certificate = await self.parts.renewal.renew_node(self.node_id, csr)
        except ClusterError as error:
            await self.link.send(wire.Refusal(error.code, error.message))
            return
        await self.link.send(certificate)

    async def _sign_service(self, asked: wire.ServiceSigningRequest) -> None:
        """Answer a request for a service's certificate; a refusal does not end the session."""
        certificate: wire.ServiceCertificate | wire.ServiceCertificateRefused
        try:
            certificate = await self.parts.certificates.issue(
                self.node_id, ServiceId(asked.service_id), asked.csr
            )
        except ClusterError as error:
            certificate = wire.ServiceCertificateRefused(asked.service_id, error.code)
        await self.link.send(certificate)

    async def _prolong(self, number: int) -> None:
        """Prolong the lease after a barrier begun now: a manager without a quorum cannot keep an
        evicted node alive."""
        try:
            await self.parts.store.barrier()
        except Unavailable:
            return
        if self._is_admitted():
            await self.link.send(wire.Lease(number, self.parts.store.cluster.lease_s))
        else:
            self.wake()  # the pusher orders the wipe

    # --- pusher ---

    async def _push(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._deliver()
                await self._health.write()
            except Evicted:
                await self._wipe()
                raise
            except (Unavailable, Conflict, PermissionDenied, TransactionTooLarge) as error:
                # The record cannot be written now, so nothing is issued; the agent keeps what it
                # has.
                log.warning(
                    "session.delivery_postponed", session_id=self.session_id, code=error.code
                )
                await asyncio.sleep(RETRY_S)
                self.wake()

    async def _deliver(self) -> None:
        for _ in range(DECISIONS):
            self._require_admitted()
            await self._tell_managers()
            desired = self._desired()
            plan = difference(self._sent, desired)
            if not (plan or self._snapshot_due or self._owed):
                return
            assignments = tuple(desired.values()) if self._snapshot_due else plan.changed
            begun, resyncs = self.parts.store.moment(), self._resyncs
            self._owed = True
            await self.parts.receipts.ensure(self.node_id, assignments)
            async with self._settling:
                pass  # before the barrier: while an ack waited for its quorum it would grow old
            number = await self.parts.store.barrier(since=begun)
            if resyncs != self._resyncs:
                continue
            if await self._send_decided(number):
                return
        raise Unavailable("the records keep changing; the delivery is tried again")

    async def _tell_managers(self) -> None:
        """Tell the agent of managers that came or went: it must know where to go when we die."""
        managers = managers_of(self.parts.store.view)
        if managers != self._managers:
            self._managers = managers
            await self.link.send(managers)

    async def _send_decided(self, number: int) -> bool:
        """Decide once more from the view as it is after the barrier, and send; False if a receipt
        is missing by now, or an ack that is being written may end one.

        From the decision to the last value sealed nothing awaits, so nothing can change in between.
        """
        if self._settling.locked():
            return False
        self._require_admitted()
        desired = self._desired()
        plan = difference(self._sent, desired)
        assignments = tuple(desired.values()) if self._snapshot_due else plan.changed
        if self.parts.receipts.missing(self.node_id, assignments):
            return False
        revision = self._pair(max(number, self.parts.store.view.revision))
        needed = {key for assignment in assignments for key in versions_of(assignment)} - self._held
        messages = self._seal(sorted(needed, key=lambda key: (key.secret_id, key.version)))
        base = None if self._snapshot_due else self._base
        view, node_id = self.parts.store.view, self.node_id
        manifest = manifest_of(view, node_id, (base, revision), desired, plan, self._sent)
        self._sent, self._base = desired, revision
        self._snapshot_due = self._owed = False
        # What the agent drops now has to be sent again if it comes back.
        self._held &= {key for one in desired.values() for key in versions_of(one)}
        for message in messages:
            await self.link.send(message)
            self._require_admitted()  # whoever is evicted in the middle gets no more of it
        await self.link.send(manifest)
        return True

    def _desired(self) -> dict[str, wire.ServiceAssignment]:
        records = ViewRecords(self.parts.store.view)
        return assignments_of(records, self.node_id, self.parts.assigned)

    def _seal(self, needed: Iterable[wire.VersionKey]) -> list[wire.Values]:
        def open_value(key: wire.VersionKey) -> SecretBytes:
            return self.parts.store.open_value(SecretId(key.secret_id), VersionNumber(key.version))

        return sealed_values(needed, open_value, self._recipient, self.parts.entropy)

    def _pair(self, number: int) -> wire.RevisionPair:
        incarnation = self.parts.store.incarnation
        return wire.RevisionPair(incarnation.counter, incarnation.unique, number)

    def _require_admitted(self) -> None:
        if not self._is_admitted():
            raise Evicted

    def _is_admitted(self) -> bool:
        node = self.parts.store.view.nodes.get(self.node_id)
        return node is not None and node.record.revoked_at is None

    async def _wipe(self) -> None:
        """Order the wipe and give the agent a moment to report it; the connection is cut either
        way."""
        self._wiped.clear()
        try:
            async with asyncio.timeout(WIPE_TIMEOUT_S):
                await self.link.send(wire.Wipe("evicted"))
                await self._wiped.wait()
        except (TimeoutError, SessionExpired):
            log.warning("session.wipe_not_confirmed", node_id=self.node_id)


def _revision(pair: wire.RevisionPair) -> Revision:
    return Revision(Incarnation(pair.counter, pair.unique), pair.number)
