"""The messages of an agent's session: one WebSocket, msgpack, values in envelopes only.

Flow: the agent sends Hello; the manager answers Welcome, then Values and a Snapshot; afterwards
Values and Deltas as things change, each answered by an Ack. Values always travel before the
manifest that needs them. A Delta whose `base` is not what the agent applied last means a gap: the
agent says Resync and gets a Snapshot. Field order is part of the format; `FORMAT` names it and the
Hello lists what an agent can speak. Reference: docs/reference/wire.md.
"""

from typing import Final

import msgspec

from cluster.protocol.errors import MalformedMessage
from cluster.protocol.undecodable import UNDECODABLE

FORMAT: Final = 1
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""Values are split over several messages to stay below it."""
MAX_AGENT_MESSAGE_BYTES: Final = 1024 * 1024
"""What a manager reads from an agent at most."""
LOG_LINES: Final = 1_000
LOG_BYTES: Final = 131_072
"""Lines and text in one LogChunk at most."""
VALUES_PER_MESSAGE_BYTES: Final = 1024 * 1024
CERTIFICATE_TARGETS: Final = ("tls.crt", "tls.key", "ca.crt")
"""The files of a service's certificate: chain, key, and what its peers are checked with."""
REQUEST_IDS: Final = 128
"""Ids of requests in one manifest at most."""


class RevisionPair(msgspec.Struct, frozen=True, array_like=True):
    """A revision: incarnation counter and unique id, then the number."""

    counter: int
    unique: str
    number: int


class VersionKey(msgspec.Struct, frozen=True, array_like=True):
    """Names a secret version."""

    secret_id: str
    version: int


class FileSpec(msgspec.Struct, frozen=True, array_like=True):
    """One file of a service: which version goes where, and how."""

    target: str
    secret_id: str
    name: str
    """Of the secret or the config, which `strongroom-agent get` takes."""
    version: int
    uid: int | None
    gid: int | None
    mode: int
    wipe_on_lease_loss: bool
    lease_s: float | None = None
    """How long the file may outlive the last lease; None: as long as the node's own lease."""
    config: bool = False
    """Whether it is a config's: a secret may have the same name."""


class HealthCheck(msgspec.Struct, frozen=True, array_like=True):
    """How a service says that it works with what is in its files now."""

    kind: str
    """"exec", "http" (of the node's own loopback) or "process" (still running)."""
    command: tuple[str, ...] = ()
    url: str = ""
    interval_s: float = 1.0
    timeout_s: float = 5.0
    retries: int = 3
    """Failures in a row that make it unhealthy."""


class ServiceAssignment(msgspec.Struct, frozen=True, array_like=True):
    """All that a node must know of one service placed on it."""

    service_id: str
    name: str
    uid: int
    gid: int
    spec_number: int
    files: tuple[FileSpec, ...]
    on_change_signal: str = ""
    on_change_command: tuple[str, ...] = ()
    on_change_timeout_s: float = 10.0
    health: HealthCheck | None = None
    certificate: bool = False
    """Whether `tls.crt`, `tls.key` and `ca.crt` belong to its files."""
    logs: bool = False
    """Whether the last lines that it prints under `exec` are kept, to be asked for."""


# --- agent to manager
# ---------------------------------------------------------------------------------------------


class EnvelopeKey(msgspec.Struct, frozen=True, array_like=True):
    """A public key of the agent's process, which values are sealed to."""

    suite: str
    """"mlkem768-x25519" (both keys, 1184 and 32 bytes) or "x25519" (32 bytes)."""
    public_key: bytes


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Opens a session."""

    formats: tuple[int, ...]
    agent_version: str
    boot_id: str
    mounts: str
    strength: str
    held: tuple[VersionKey, ...]
    """Versions whose values the agent still has: they are not sent again."""
    highest: RevisionPair | None
    """The highest revision ever seen; a manager behind it waits or lets the agent go elsewhere."""
    envelope_keys: tuple[EnvelopeKey, ...] = ()
    """What values may be sealed to; a session without any is refused."""


class ServiceResult(msgspec.Struct, frozen=True, array_like=True):
    """What became of one service after a Snapshot or Delta."""

    service_id: str
    mounted: tuple[VersionKey, ...]
    error: str = ""
    """Empty if the files are in place."""
    spec_number: int = 0
    """The `spec_number` of the assignment this reports on."""


class Ack(msgspec.Struct, frozen=True, tag="ack"):
    """Reports that `revision` was carried out. `services` lists every service it touched; `dropped`
    those removed."""

    revision: RevisionPair
    services: tuple[ServiceResult, ...]
    dropped: tuple[str, ...] = ()


class Resync(msgspec.Struct, frozen=True, tag="resync"):
    """Asks for a Snapshot: a gap was seen, or values are missing."""

    held: tuple[VersionKey, ...]


class SigningRequest(msgspec.Struct, frozen=True, tag="csr"):
    """Asks for a new certificate over this session."""

    csr: bytes


class HealthReport(msgspec.Struct, frozen=True, tag="health"):
    """Says how a service does with the versions it holds; sent when that changes."""

    service_id: str
    spec_number: int
    mounted: tuple[VersionKey, ...]
    """The versions in place while it was checked."""
    healthy: bool
    detail: str = ""
    """Why not: an exit status, an HTTP status, a timeout; never output of the check."""


class ServiceSigningRequest(msgspec.Struct, frozen=True, tag="service-csr"):
    """Asks for a certificate of a service that is placed here; the key stays on the node."""

    service_id: str
    csr: bytes


class LogLine(msgspec.Struct, frozen=True, array_like=True):
    """One line of a service's output."""

    time_s: float
    """By the node's calendar."""
    stream: str
    """"stdout" or "stderr"."""
    text: str


class LogChunk(msgspec.Struct, frozen=True, tag="logs"):
    """Answers a LogRequest, whose `number` it has."""

    number: int
    lines: tuple[LogLine, ...]
    cursor_s: float
    """What to ask on behind."""
    error: str = ""
    """Why there are no lines, as an error code."""


class LeaseRequest(msgspec.Struct, frozen=True, tag="lease?"):
    """Asks to prolong the lease; `number` comes back in the Lease. The agent counts from its
    sending."""

    number: int


# --- manager to agent
# ---------------------------------------------------------------------------------------------


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """Answers Hello."""

    format: int
    session_id: str
    manager_id: str
    lease_s: float
    managers: tuple[str, ...]
    """host:port of every manager's session listener, for failover."""
    join_addresses: tuple[str, ...]
    """host:port of every manager's join listener, for coming back after an expiry."""
    suite: str
    """Which of the Hello's envelope keys values are sealed to."""


class Managers(msgspec.Struct, frozen=True, tag="managers"):
    """Replaces the addresses of the Welcome: a manager joined, or one is gone."""

    managers: tuple[str, ...]
    join_addresses: tuple[str, ...]


class Value(msgspec.Struct, frozen=True, array_like=True):
    """A secret version's value, sealed under the key of its message."""

    secret_id: str
    version: int
    sealed: bytes

    def __repr__(self) -> str:
        return f"Value(secret_id={self.secret_id!r}, version={self.version})"


class Values(msgspec.Struct, frozen=True, tag="values"):
    """Values that the next Snapshot or Delta needs, in the envelope of cluster.pki."""

    values: tuple[Value, ...]
    sealed_key: bytes = b""
    """The message key, sealed by HPKE to the node's key."""


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot", omit_defaults=True):
    """Everything the node is assigned, as of `revision`; what is not in it must go."""

    revision: RevisionPair
    services: tuple[ServiceAssignment, ...]
    request_ids: tuple[str, ...] = ()
    """Of the requests that made what is new to the node; for its log alone."""


class Delta(msgspec.Struct, frozen=True, tag="delta", omit_defaults=True):
    """What changed between `base` and `revision`."""

    base: RevisionPair
    revision: RevisionPair
    changed: tuple[ServiceAssignment, ...]
    removed: tuple[str, ...]
    request_ids: tuple[str, ...] = ()
    """As in a Snapshot."""


class Certificate(msgspec.Struct, frozen=True, tag="certificate"):
    """A new certificate chain (DER, leaf first) and the trust bundle (DER lists)."""

    chain: tuple[bytes, ...]
    roots: tuple[bytes, ...]
    control: tuple[bytes, ...]
    workload: tuple[bytes, ...]


class ServiceCertificate(msgspec.Struct, frozen=True, tag="service-certificate"):
    """A service's new chain and what its peers are checked with."""

    service_id: str
    chain: tuple[bytes, ...]
    """DER, leaf first."""
    anchors: tuple[bytes, ...]
    """DER: the workload authorities as self-signed certificates."""
    life_s: float
    """How long the leaf holds, from when it was issued."""


class ServiceCertificateRefused(msgspec.Struct, frozen=True, tag="service-certificate-refused"):
    """Says that a ServiceSigningRequest is not met, by an error code; the session goes on."""

    service_id: str
    code: str


class LogRequest(msgspec.Struct, frozen=True, tag="logs?"):
    """Asks for lines of a service's output, once; a LogChunk answers it."""

    number: int
    service_id: str
    tail: int
    """How many lines at most."""
    after_s: float | None = None
    """The cursor of a chunk before: the next lines; None: the last ones."""


class Lease(msgspec.Struct, frozen=True, tag="lease"):
    """Prolongs the lease asked for as `number`, for `lease_s` from when that was sent."""

    number: int
    lease_s: float


class Wipe(msgspec.Struct, frozen=True, tag="wipe"):
    """Orders the agent to wipe everything at once (eviction); it acks with an empty Ack and the
    session ends."""

    reason: str


class Refusal(msgspec.Struct, frozen=True, tag="refusal"):
    """Ends or denies something, by an error code of cluster.protocol.errors."""

    code: str
    message: str


FromAgent = (
    Hello
    | Ack
    | Resync
    | SigningRequest
    | HealthReport
    | ServiceSigningRequest
    | LogChunk
    | LeaseRequest
)
FromManager = (
    Welcome
    | Managers
    | Values
    | Snapshot
    | Delta
    | Certificate
    | ServiceCertificate
    | ServiceCertificateRefused
    | LogRequest
    | Lease
    | Wipe
    | Refusal
)

_ENCODER = msgspec.msgpack.Encoder()
_FROM_AGENT: msgspec.msgpack.Decoder[FromAgent] = msgspec.msgpack.Decoder(FromAgent)
_FROM_MANAGER: msgspec.msgpack.Decoder[FromManager] = msgspec.msgpack.Decoder(FromManager)


def encode(message: FromAgent | FromManager) -> bytes:
    """Return the message as it goes over the wire."""
    return _ENCODER.encode(message)


def decode_from_agent(data: bytes) -> FromAgent:
    """Return what an agent sent, or raise MalformedMessage, which says nothing of the content."""
    if len(data) > MAX_AGENT_MESSAGE_BYTES:
        raise MalformedMessage
    try:
        return _FROM_AGENT.decode(data)
    except UNDECODABLE:
        raise MalformedMessage from None


def decode_from_manager(data: bytes) -> FromManager:
    """Return what a manager sent, or raise MalformedMessage."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise MalformedMessage
    try:
        return _FROM_MANAGER.decode(data)
    except UNDECODABLE:
        raise MalformedMessage from None
