"""One agent core, several managers, and the wires between them: whoever drives it decides what
each wire does.

The agent's mounts are dictionaries; everything the core asks for is carried out in order, as
`agent.main` does it.
"""

import math
from collections import deque
from collections.abc import Callable

import msgspec

from agent import effects
from agent.assignments import version_key
from agent.lease import Grant
from agent.session import Session
from agent.session_state import HelloFacts
from cluster.pki.node_envelope import EnvelopeSuite, NodeKeys
from cluster.protocol import wire
from cluster.protocol.wire import RevisionPair, ServiceAssignment, ServiceResult, VersionKey
from tests.simulation.naive_manager import NODE_ID, History, NaiveManager, value_of
from tests.simulation.naive_manager import service as assignment

KEYS = NodeKeys.generate(NODE_ID, (EnvelopeSuite.X25519,))
FACTS = HelloFacts("test", "boot", "kernel", "secure", KEYS.public_keys())


class World:
    """The agent's side of the world and its wires. Time moves by `tick` only."""

    def __init__(
        self, managers: list[NaiveManager], draw: Callable[[], float] = lambda: 0.5
    ) -> None:
        self.managers = managers
        self.now_s = 1000.0
        self.trace: list[str] = []
        self.mounts: dict[str, dict[str, bytes]] = {}
        self.mounted: dict[str, ServiceAssignment] = {}
        self.applied: list[RevisionPair] = []
        self.saved_highest: RevisionPair | None = None
        self.saved_lease: Grant | None = None
        self.reports: list[str] = []
        self.wires: dict[int, deque[wire.FromManager]] = {}
        self.peers: dict[int, NaiveManager] = {}
        self.broken_services: set[str] = set()
        self._asked: dict[tuple[int, int], float] = {}
        self._granted = (-math.inf, 0.0)
        self._draw = draw
        self._links = 0
        self._dial_at: list[float] = []
        self._next = 0
        self.session = self._new_session()

    # --- what a driver may do ------------------------------------------------------------------

    def start(self) -> None:
        self.run(self.session.on_tick(self.now_s))
        self.dial()

    def dial(self) -> None:
        """Connect to the next manager in turn."""
        manager = self.managers[self._next % len(self.managers)]
        self._next += 1
        self._links += 1
        link = self._links
        self.wires[link], self.peers[link] = deque(), manager
        self._note(f"link {link} opens to {manager.name}")
        self.run(self.session.on_connected(link, self.now_s))

    def deliver(self, link: int, index: int = 0, *, keep: bool = False) -> None:
        """Hand the agent a message that is under way."""
        queue = self.wires[link]
        message = queue[index]
        if not keep:
            del queue[index]
        self._note(f"  m->a {link} {describe(message)}")
        if isinstance(message, wire.Lease):
            sent_s = self._asked[link, message.number]
            self._granted = max(self._granted, (sent_s, message.lease_s))
        self.run(self.session.on_message(link, message, self.now_s))

    def drop(self, link: int, index: int = 0) -> None:
        self._note(f"  lost {link} {describe(self.wires[link][index])}")
        del self.wires[link][index]

    def cut(self, link: int) -> None:
        self._note(f"link {link} is cut")
        self._hang_up(link)
        self.run(self.session.on_closed(link, self.now_s))

    def tick(self, seconds: float) -> None:
        """Let time pass, then do what is due."""
        self.now_s += seconds
        self.run(self.session.on_tick(self.now_s))
        for due in [at for at in self._dial_at if at <= self.now_s]:
            self._dial_at.remove(due)
            self.dial()

    def publish(self) -> None:
        """Let every manager push what it knows."""
        for link, manager in list(self.peers.items()):
            self.wires[link].extend(manager.changes(link))

    def restart(self) -> None:
        """Kill the agent and start it again: mounts and saved state stay."""
        self._note("agent restarts")
        for link in list(self.wires):
            self._hang_up(link)
        self._dial_at.clear()
        self.session = self._new_session()
        self.start()

    def settle(self, seconds: float = 120.0) -> None:
        """Let a healthy network and time do their work."""
        for _ in range(int(seconds)):
            self.publish()
            while any(self.wires.values()):
                for link in [link for link, queue in self.wires.items() if queue]:
                    if self.wires.get(link):
                        self.deliver(link)
            self.tick(1.0)

    def overdue(self) -> list[str]:
        """Return the mounted files that have outlived their lease, by the world's own count."""
        sent_s, node_s = self._granted
        return [
            file.target
            for service in self.mounted.values()
            for file in service.files
            if file.wipe_on_lease_loss
            and self.now_s >= sent_s + (node_s if file.lease_s is None else file.lease_s)
        ]

    # --- carrying out ---------------------------------------------------------------------------

    def run(self, todo: list[effects.Effect]) -> None:
        for effect in todo:
            self._run_one(effect)

    def _run_one(self, effect: effects.Effect) -> None:  # noqa: C901, PLR0912  # one case each
        match effect:
            case effects.Send(link, message):
                self._note(f"  a->m {link} {describe(message)}")
                if isinstance(message, wire.LeaseRequest):
                    self._asked[link, message.number] = self.now_s
                if link in self.wires:
                    self.wires[link].extend(self.peers[link].receive(link, message))
            case effects.Apply():
                self._apply(effect)
            case effects.WipeLapsed(services):
                for service in services:
                    kept = " ".join(file.target for file in service.files) or "nothing"
                    self._note(f"  wipe lapsed of {service.name}, keep {kept}")
                    self._keep_only(service)
            case effects.WipeAll(reason):
                self._note(f"  wipe all: {reason}")
                self.mounts, self.mounted = {}, {}
            case effects.SaveHighest(revision):
                self.saved_highest = revision
            case effects.SaveLease(granted):
                self.saved_lease = granted
            case effects.OpenSuccessor():
                self.dial()
            case effects.Close(link, reason):
                self._note(f"link {link} closed: {reason}")
                self._hang_up(link)
            case effects.Reconnect(delay_s, reason):
                self._note(f"  reconnect in {delay_s:.1f} s: {reason}")
                self._dial_at.append(self.now_s + delay_s)
            case effects.Report(error):
                self.reports.append(error.code)
            case (
                effects.ReadLogs()
                | effects.StoreCertificate()
                | effects.StoreManagers()
                | effects.TakeServiceCertificate()
            ):
                pass

    def _apply(self, work: effects.Apply) -> None:
        assert self.saved_highest == work.revision, "applied before it was durable"
        self._note(f"  apply {work.revision.number}")
        self.applied.append(work.revision)
        old = self._readable()
        dropped = tuple(self.mounted.keys() - {s.service_id for s in work.services})
        for service_id in dropped:
            del self.mounts[service_id], self.mounted[service_id]
        results = []
        for service in work.services:
            if service.name in self.broken_services:
                results.append(self._result(service.service_id, "broken"))
                continue
            with KEYS.opening() as open_value:
                values = {k: open_value(v).reveal() for k, v in work.values.items()} | old
            files = {f.target: values[version_key(f)] for f in service.files}
            self.mounts[service.service_id] = files
            self.mounted[service.service_id] = service
            results.append(self._result(service.service_id, ""))
        self.run(self.session.on_applied(work.revision, tuple(results), dropped, self.now_s))

    def _readable(self) -> dict[VersionKey, bytes]:
        return {
            version_key(f): self.mounts[i][f.target]
            for i, service in self.mounted.items()
            for f in service.files
        }

    def _result(self, service_id: str, error: str) -> ServiceResult:
        mounted = self.mounted.get(service_id)
        files = mounted.files if mounted is not None else ()
        return ServiceResult(service_id, tuple(version_key(f) for f in files), error)

    def _keep_only(self, service: ServiceAssignment) -> None:
        if service.service_id not in self.mounts:
            return
        targets = {f.target for f in service.files}
        files = self.mounts[service.service_id]
        self.mounts[service.service_id] = {t: v for t, v in files.items() if t in targets}
        kept = tuple(f for f in self.mounted[service.service_id].files if f.target in targets)
        self.mounted[service.service_id] = msgspec.structs.replace(
            self.mounted[service.service_id], files=kept
        )

    def _hang_up(self, link: int) -> None:
        self.wires.pop(link, None)
        manager = self.peers.pop(link, None)
        if manager is not None:
            manager.forget(link)

    def _new_session(self) -> Session:
        return Session(
            FACTS, self.saved_highest, self.mounted.values(), self.saved_lease, self._draw
        )

    def _note(self, line: str) -> None:
        self.trace.append(f"{self.now_s - 1000.0:7.1f} {line}")


def heal(world: World, history: History) -> None:
    """Make one last change known everywhere: a message lost before it shows as a gap, and all
    must converge.
    """
    last = assignment("last", ("last", 1), uid=2000)
    history.commit({**history.entries[-1], last.service_id: last})
    for manager in world.managers:
        manager.view = history.newest
    world.settle(200)


def expected(history: History) -> dict[str, dict[str, bytes]]:
    """Return what a converged node holds."""
    return {
        i: {f.target: value_of(version_key(f)) for f in service.files}
        for i, service in history.entries[-1].items()
    }


def describe(message: wire.FromAgent | wire.FromManager) -> str:  # one case each
    """Return one readable line; never a value."""
    match message:
        case wire.Hello(held=held, highest=highest):
            return f"Hello held={len(held)} highest={highest.number if highest else None}"
        case wire.Values(values):
            return " ".join(["Values", *(f"{v.secret_id}:{v.version}" for v in values)])
        case wire.Snapshot(revision, services):
            return f"Snapshot {revision.number} of {len(services)}"
        case wire.Delta(base, revision):
            return f"Delta {base.number}->{revision.number}"
        case wire.Ack(revision, services, dropped):
            failed = [s.service_id for s in services if s.error]
            done = len(services) - len(failed)
            return f"Ack {revision.number} ok={done} failed={failed} dropped={len(dropped)}"
        case wire.LeaseRequest(number):
            return f"LeaseRequest {number}"
        case wire.Lease(number):
            return f"Lease {number}"
        case wire.Refusal(code):
            return f"Refusal {code}"
        case _:
            return type(message).__name__
