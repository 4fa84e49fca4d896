"""A manager as plain as can be: the whole history in memory, no batching, no receipts.

It answers an agent's messages with a list of messages; the world decides what becomes of them. A
real dispatcher core fits in its place if it offers `receive` and `changes`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.pki.node_envelope import Recipient
from cluster.protocol import wire
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.wire import FileSpec, RevisionPair, ServiceAssignment, VersionKey
from cluster.system import SystemEntropy

NODE_ID = "node1"
"""Whom a naive manager serves."""


def value_of(key: VersionKey) -> bytes:
    """The value of a version: made up, but different for each."""
    return f"value of {key.secret_id} version {key.version}".encode()


@dataclass
class History:
    """What the cluster committed: entry n is what the node is assigned at revision n."""

    counter: int = 1
    unique: str = "first"
    entries: list[dict[str, ServiceAssignment]] = field(default_factory=lambda: [{}])

    def commit(self, services: dict[str, ServiceAssignment]) -> None:
        self.entries.append(services)

    def revision(self, number: int) -> RevisionPair:
        return RevisionPair(self.counter, self.unique, number)

    @property
    def newest(self) -> int:
        return len(self.entries) - 1


class NaiveManager:
    """One manager; `view` is how far it has followed the history."""

    def __init__(self, name: str, history: History, lease_s: float = 60.0) -> None:
        self.name = name
        self.history = history
        self.view = history.newest
        self.lease_s = lease_s
        self.grants_leases = True
        self.evicted = False
        self.acks: list[wire.Ack] = []
        self.health: list[wire.HealthReport] = []
        self._sent: dict[int, int] = {}
        self._held: dict[int, set[VersionKey]] = {}
        self._recipients: dict[int, Recipient] = {}

    def receive(self, link: int, message: wire.FromAgent) -> list[wire.FromManager]:
        """Return the answers to a message."""
        if self.evicted:
            return [wire.Refusal("evicted", "removed")]
        match message:
            case wire.Hello():
                welcome = self._welcome(link, message)
                self._held[link] = set(message.held)
                return [welcome, *self._snapshot(link)]
            case wire.Resync():
                self._held[link] = set(message.held)
                return self._snapshot(link)
            case wire.LeaseRequest() if self.grants_leases:
                return [wire.Lease(message.number, self.lease_s)]
            case wire.SigningRequest():
                return [wire.Certificate((b"leaf",), (b"root",), (b"control",), (b"workload",))]
            case wire.Ack():
                self.acks.append(message)
            case wire.LogChunk():
                raise AssertionError("nobody asked for a log")
            case wire.HealthReport():
                self.health.append(message)
            case _:
                pass
        return []

    def changes(self, link: int) -> list[wire.FromManager]:
        """Return what a link has not been sent yet."""
        base = self._sent.get(link)
        if base is None or base >= self.view:
            return []
        before, after = self.history.entries[base], self.history.entries[self.view]
        changed = tuple(s for i, s in after.items() if before.get(i) != s)
        delta = wire.Delta(
            self.history.revision(base),
            self.history.revision(self.view),
            changed,
            tuple(before.keys() - after.keys()),
        )
        self._sent[link] = self.view
        return [self._values(link, changed), delta]

    def forget(self, link: int) -> None:
        self._sent.pop(link, None)
        self._held.pop(link, None)

    def _snapshot(self, link: int) -> list[wire.FromManager]:
        services = tuple(self.history.entries[self.view].values())
        self._sent[link] = self.view
        snapshot = wire.Snapshot(self.history.revision(self.view), services)
        return [self._values(link, services), snapshot]

    def _values(self, link: int, services: tuple[ServiceAssignment, ...]) -> wire.Values:
        keys = {VersionKey(f.secret_id, f.version) for s in services for f in s.files}
        missing = sorted(keys - self._held[link], key=str)
        self._held[link] |= keys
        return self._recipients[link].seal(
            [(key, SecretBytes(value_of(key))) for key in missing], SystemEntropy()
        )

    def _welcome(self, link: int, hello: wire.Hello) -> wire.Welcome:
        session_id = f"s{link}"
        recipient = Recipient.choose(hello.envelope_keys, NODE_ID, session_id)
        self._recipients[link] = recipient
        return wire.Welcome(
            1, session_id, self.name, self.lease_s, ("m:1",), ("m:2",), recipient.suite
        )


def service(
    name: str,
    *files: tuple[str, int],
    uid: int = 1000,
    wipe: bool = False,
    leases: Mapping[str, float | None] | None = None,
) -> ServiceAssignment:
    """Return an assignment whose files are (secret, version) pairs, targets named by the secret.

    Those in `leases` are wiped at the end of a lease of their own.
    """
    own = leases or {}
    specs = tuple(
        FileSpec(s, s, s, v, None, None, 0o440, wipe or s in own, own.get(s)) for s, v in files
    )
    return ServiceAssignment(f"id-{name}", name, uid, uid, 1, specs)
