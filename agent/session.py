"""The agent's side of a session: what to say, what to believe, what to do (pure).

Theory of operation
-------------------
A *link* is one WebSocket to one manager, known here by a number. There is one current link; while
a certificate is renewed there is also a successor, which takes over when its first Snapshot is
accepted. Each link runs through

    OPENING    --Welcome-->   SYNCING    --Snapshot-->   STREAMING   --Resync sent-->   SYNCING

    phase      | Welcome | Values | Snapshot | Delta          | Lease | Certificate | Wipe | Refusal
    OPENING    | SYNCING | -      | -        | -              | -     | -           | wipe | leave
    SYNCING    | -       | stage  | accept   | ignore         | take  | store       | wipe | leave
    STREAMING  | -       | stage  | accept   | accept, resync | take  | store       | wipe | leave

Managers is stored in SYNCING and STREAMING, and is a breach in OPENING.

and "-" is a breach of protocol: the link is closed and another manager is asked. Every wait has a
limit (`on_tick`).

What is believed. `highest` is the highest revision ever accepted; it is durable before anything
of it is applied. A lower incarnation, or the same counter under another id, is another store's
history: refused and reported, and the agent keeps what it has. A lower number is a manager
lagging behind: another one is asked. So no order of messages takes a node back.

Values travel before the manifest that needs them. They are staged here in the envelope they came
in, handed out with Apply, and dropped as soon as they rest in a mount, or when they turn out not to
open; a manifest drops every staged value that nothing refers to. If values are missing the agent
says Resync with what it holds; if the answer lacks them too, it leaves.

The lease. Files marked `wipe_on_lease_loss` are published only under a lease, of their own length
or the node's (`agent.lease`). When it runs out they are wiped, and left out of every Apply until a
Lease arrives; then they are put back from staged values, or asked for by Resync. Leases are asked
for as often as the shortest of them needs. A new process knows the grant in force from `SaveLease`;
without that every lease counts as lapsed.

The loop carries out all effects of one event, in order, before the next event: `on_applied` is
called from within Apply. Source: DESIGN 6; the messages are in `cluster.protocol.wire`. Must not
read a clock, draw randomness or do any IO.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final

from agent import effects
from agent.holdings import Covers, Holdings, Verdict
from agent.lease import Grant, Lease
from agent.session_links import ANSWER_LIMIT_S, SessionLinks
from agent.session_state import HelloFacts, Link, Phase, Renewal
from cluster.pki.node_envelope import staged
from cluster.protocol import wire
from cluster.protocol.errors import Evicted, StoreRolledBack, Unavailable
from cluster.protocol.wire import RevisionPair, ServiceAssignment, ServiceResult

RETRY_FAILED_S: Final = 15.0
RENEWAL_RETRY_S: Final = 30.0

_Todo = list[effects.Effect]
# Any: each handler takes the message type of its own row.
_Table = Mapping[type, Callable[["Session", Link, Any, float], _Todo]]


class Session:
    """The state machine. Times are CLOCK_BOOTTIME seconds; `draw` gives jitter in [0, 1]."""

    def __init__(
        self,
        facts: HelloFacts,
        highest: RevisionPair | None,
        mounted: Iterable[ServiceAssignment],
        granted: Grant | None,
        draw: Callable[[], float],
    ) -> None:
        self._facts = facts
        self._holdings = Holdings(highest, mounted)
        self._failed_since_s: float | None = None
        self._lease = Lease(granted)
        self._links = SessionLinks(self._lease, draw)
        self._wiped: frozenset[tuple[str, str]] = frozenset()
        """The files that a lapse has taken away, until a lease covers them again."""

    # --- what the loop may look at --------------------------------------------------------------

    @property
    def highest(self) -> RevisionPair | None:
        """The highest revision ever accepted."""
        return self._holdings.highest

    @property
    def manager_id(self) -> str:
        """The manager of the current link; empty without one."""
        link = self._links.current
        return link.manager_id if link is not None else ""

    @property
    def is_synced(self) -> bool:
        """Whether the current link has delivered a Snapshot and no gap is open."""
        return self.synced_link is not None

    @property
    def synced_link(self) -> int | None:
        """The current link once it `is_synced`: over it, what is in place was acknowledged."""
        link = self._links.current
        return link.number if link is not None and link.phase is Phase.STREAMING else None

    @property
    def is_renewing(self) -> bool:
        """Whether a certificate was asked for, or the link that will use it is not in service
        yet.
        """
        return self._links.renewal.is_under_way

    def may_serve(self, file: wire.FileSpec, now_s: float) -> bool:
        """Return whether a file may be handed out now: not one that its lease no longer covers."""
        return self._lease.covers(file, now_s)

    def lease_left_s(self, now_s: float) -> float | None:
        """Return how long the node's lease still runs; None: there is none."""
        return self._lease.left_s(now_s)

    @property
    def files_lapsed(self) -> int:
        """How many files a lapse has taken away."""
        return len(self._wiped)

    # --- events ---------------------------------------------------------------------------------

    def on_connected(self, link: int, now_s: float) -> _Todo:
        """Say Hello over a link that just opened."""
        self._links.opened(link, now_s)
        hello = self._facts.hello(self._holdings.held(), self._holdings.highest)
        return [effects.Send(link, hello)]

    def on_closed(self, link: int | None, now_s: float) -> _Todo:
        """Take in that a link is gone, or (None) that one could not be opened."""
        return self._links.closed(link, now_s)

    def on_message(self, link: int, message: wire.FromManager, now_s: float) -> _Todo:
        """Take in a message; one from a link that was given up is ignored."""
        state = self._links.find(link)
        if state is None:
            return []
        handler = self._HANDLERS[state.phase].get(type(message))
        if handler is None:
            return self._links.leave(state, "unexpected message", now_s)
        return handler(self, state, message, now_s)

    def on_tick(self, now_s: float) -> _Todo:
        """Do what is due. The loop calls it at least every second, and first of all after a
        pause.
        """
        todo = self._lapse(now_s)
        for link in self._links.all():
            todo += self._tick_link(link, now_s)
        todo += self._links.tick_renewal(now_s)
        since_s = self._failed_since_s
        if since_s is not None and now_s >= since_s + RETRY_FAILED_S:
            self._failed_since_s = now_s
            todo += self._apply_again(now_s)
        return todo

    def on_applied(
        self,
        revision: RevisionPair,
        results: tuple[ServiceResult, ...],
        dropped: tuple[str, ...],
        now_s: float,
        unopened: tuple[wire.VersionKey, ...] = (),
    ) -> _Todo:
        """Take in what became of an Apply: acknowledge it, and drop the values that now rest in
        mounts, and those that could not be opened.
        """
        self._holdings.settle(results, complete=not self._wiped)
        self._holdings.discard(unopened)
        self._failed_since_s = now_s if any(r.error for r in results) else None
        link = self._links.current
        if link is None or link.received != revision:
            return []
        return [effects.Send(link.number, wire.Ack(revision, results, dropped))]

    def on_renewal_due(self, csr: bytes, now_s: float) -> _Todo:
        """Ask for a new certificate over the current link."""
        link = self._links.current
        if link is None or not self.is_synced or self.is_renewing:
            return []
        self._links.renewal.asked_until_s = now_s + ANSWER_LIMIT_S
        return [effects.Send(link.number, wire.SigningRequest(csr))]

    def on_certificates(self, now_s: float) -> _Todo:
        """Go on with what waited for a service's first certificate."""
        return self._apply_again(now_s)

    # --- messages -------------------------------------------------------------------------------

    def _welcome(self, link: Link, message: wire.Welcome, now_s: float) -> _Todo:
        if message.format != wire.FORMAT or not message.lease_s > 0:
            return self._links.leave(link, "unknown format", now_s)
        if message.suite not in {key.suite for key in self._facts.envelope_keys}:
            return self._links.leave(link, "unknown envelope", now_s)
        link.phase = Phase.SYNCING
        link.waits_until_s = now_s + ANSWER_LIMIT_S
        link.lease_s = message.lease_s
        link.manager_id = message.manager_id
        link.session_id, link.suite = message.session_id, message.suite
        return [
            effects.StoreManagers(message.managers, message.join_addresses),
            self._ask_lease(link, now_s),
        ]

    def _managers(self, _link: Link, message: wire.Managers, _now_s: float) -> _Todo:
        return [effects.StoreManagers(message.managers, message.join_addresses)]

    def _stage(self, link: Link, message: wire.Values, _now_s: float) -> _Todo:
        self._holdings.stage(staged(message, link.suite, link.session_id))
        return []

    def _snapshot(self, link: Link, message: wire.Snapshot, now_s: float) -> _Todo:
        desired = {service.service_id: service for service in message.services}
        return self._accept(link, message, desired, now_s)

    def _delta(self, link: Link, message: wire.Delta, now_s: float) -> _Todo:
        if not self._links.is_current(link) or message.revision == link.received:
            return []
        verdict = self._holdings.judge(message.revision)
        if verdict is not Verdict.CURRENT:
            return self._decline(link, verdict, now_s)
        if message.base != link.received:
            return self._resync(link, now_s)
        desired = dict(self._holdings.desired)
        desired.update((service.service_id, service) for service in message.changed)
        for service_id in message.removed:
            desired.pop(service_id, None)
        return self._accept(link, message, desired, now_s)

    def _skip(self, _link: Link, _message: wire.Delta, _now_s: float) -> _Todo:
        """A Delta on its way while a Snapshot is awaited: the Snapshot includes it."""
        return []

    def _grant(self, link: Link, message: wire.Lease, now_s: float) -> _Todo:
        granted = self._lease.grant(link.number, message.number, message.lease_s)
        if granted is None:
            return []
        todo: _Todo = [effects.SaveLease(granted)]
        back = self._wiped - self._holdings.uncovered(self._covers(now_s))
        self._wiped -= back
        if back:
            todo += self._apply_again(now_s)
        return todo

    def _certificate(self, link: Link, message: wire.Certificate, now_s: float) -> _Todo:
        if self._links.renewal.asked_until_s is None or not self._links.is_current(link):
            return []
        self._links.renewal = Renewal(successor_at_s=now_s + ANSWER_LIMIT_S)
        return [effects.StoreCertificate(message), effects.OpenSuccessor()]

    def _service_certificate(
        self,
        _link: Link,
        message: wire.ServiceCertificate | wire.ServiceCertificateRefused,
        _now_s: float,
    ) -> _Todo:
        return [effects.TakeServiceCertificate(message)]

    def _wipe(self, link: Link, message: wire.Wipe, now_s: float) -> _Todo:
        revision = self._holdings.highest or RevisionPair(0, "", 0)
        todo = self._evict(message.reason)
        todo.append(effects.Send(link.number, wire.Ack(revision, (), ())))
        return todo + self._links.leave(link, "evicted", now_s)

    def _refused(self, link: Link, message: wire.Refusal, now_s: float) -> _Todo:
        if message.code == Evicted.code:
            return self._evict("evicted") + self._links.leave(link, message.code, now_s)
        if self._links.renewal.asked_until_s is not None and self._links.is_current(link):
            # The answer to a SigningRequest; if it meant the session, that ends by itself.
            self._links.renewal.asked_until_s = now_s + RENEWAL_RETRY_S
            return [effects.Report(Unavailable(f"no new certificate yet: {message.code}"))]
        return self._links.leave(link, message.code, now_s)

    # --- manifests ------------------------------------------------------------------------------

    def _accept(
        self,
        link: Link,
        manifest: wire.Snapshot | wire.Delta,
        desired: Mapping[str, ServiceAssignment],
        now_s: float,
    ) -> _Todo:
        revision = manifest.revision
        verdict = self._holdings.judge(revision)
        if verdict is not Verdict.CURRENT:
            return self._decline(link, verdict, now_s)
        if self._holdings.lacks(desired.values(), self._covers(now_s)):
            return self._resync(link, now_s)
        todo: _Todo = []
        if self._holdings.accept(revision, desired, manifest.request_ids):
            todo.append(effects.SaveHighest(revision))
        link.phase, link.received, link.resyncs = Phase.STREAMING, revision, 0
        self._links.backoff.reset()
        return [*todo, *self._links.promote(link), self._apply(revision, now_s)]

    def _decline(self, link: Link, verdict: Verdict, now_s: float) -> _Todo:
        if verdict is Verdict.FOREIGN:
            error = StoreRolledBack(
                "a manager serves another life of the store; the mounts stay, check the managers"
            )
            return [effects.Report(error), *self._links.leave(link, error.code, now_s)]
        if link.received is not None:
            return []  # late or repeated: this manager has already shown something newer
        return self._links.leave(link, "the manager is behind", now_s)

    def _apply(self, revision: RevisionPair, now_s: float) -> effects.Apply:
        covers = self._covers(now_s)
        self._wiped = self._holdings.uncovered(covers)
        return self._holdings.work(revision, covers)

    def _apply_again(self, now_s: float) -> _Todo:
        """Apply the manifest in force once more, or ask for it where values are missing."""
        link = self._links.current
        if link is None or link.phase is not Phase.STREAMING or link.received is None:
            return []  # a Snapshot is on its way
        if self._holdings.lacks(self._holdings.desired.values(), self._covers(now_s)):
            return self._resync(link, now_s)
        return [self._apply(link.received, now_s)]

    def _resync(self, link: Link, now_s: float) -> _Todo:
        if link.resyncs:
            return self._links.leave(link, "values are missing", now_s)
        link.phase, link.resyncs = Phase.SYNCING, 1
        link.waits_until_s = now_s + ANSWER_LIMIT_S
        return [effects.Send(link.number, wire.Resync(self._holdings.held()))]

    # --- the lease ------------------------------------------------------------------------------

    def _ask_lease(self, link: Link, now_s: float) -> effects.Effect:
        return effects.Send(link.number, wire.LeaseRequest(self._lease.ask(link.number, now_s)))

    def _covers(self, now_s: float) -> Covers:
        return lambda file: self._lease.covers(file, now_s)

    def _lapse(self, now_s: float) -> _Todo:
        """Wipe what no lease covers any more, once."""
        lapsed = self._holdings.uncovered(self._covers(now_s))
        if lapsed <= self._wiped:
            return []
        touched = {service_id for service_id, _ in lapsed - self._wiped}
        self._wiped = lapsed
        kept = self._holdings.lapse(self._covers(now_s))
        return [effects.WipeLapsed(tuple(s for s in kept if s.service_id in touched))]

    # --- links ----------------------------------------------------------------------------------

    def _tick_link(self, link: Link, now_s: float) -> _Todo:
        if link.phase is not Phase.STREAMING and now_s >= link.waits_until_s:
            return self._links.leave(link, "no answer in time", now_s)
        if link.phase is Phase.OPENING:
            return []
        lease_s = min(link.lease_s, self._holdings.shortest_lease_s())
        if self._lease.is_unanswered(link.number, lease_s, now_s):
            return self._links.leave(link, "the lease is not renewed", now_s)
        if self._lease.is_due(link.number, lease_s, now_s):
            return [self._ask_lease(link, now_s)]
        return []

    def _evict(self, reason: str) -> _Todo:
        self._links.backoff.evict()
        self._failed_since_s = None
        self._holdings.clear()
        self._wiped = frozenset()
        return [effects.WipeAll(reason)]

    def _read_logs(self, link: Link, message: wire.LogRequest, _now_s: float) -> _Todo:
        return [effects.ReadLogs(link.number, message)]

    _ALWAYS: ClassVar[_Table] = {wire.Wipe: _wipe, wire.Refusal: _refused}
    _WELCOMED: ClassVar[_Table] = {
        **_ALWAYS,
        wire.Managers: _managers,
        wire.Values: _stage,
        wire.Snapshot: _snapshot,
        wire.Lease: _grant,
        wire.LogRequest: _read_logs,
        wire.Certificate: _certificate,
        wire.ServiceCertificate: _service_certificate,
        wire.ServiceCertificateRefused: _service_certificate,
    }
    _HANDLERS: ClassVar[Mapping[Phase, _Table]] = {
        Phase.OPENING: {**_ALWAYS, wire.Welcome: _welcome},
        Phase.SYNCING: {**_WELCOMED, wire.Delta: _skip},
        Phase.STREAMING: {**_WELCOMED, wire.Delta: _delta},
    }
