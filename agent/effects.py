"""What the session core asks the loop to do: one frozen type per effect.

Owns no decision and does nothing itself. `agent.main` carries the effects of one event out in
order, to the end, before it hands the core the next event; several rules of `agent.session` rest
on that.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from agent.lease import Grant
from cluster.pki.node_envelope import SealedValue
from cluster.protocol.errors import ClusterError
from cluster.protocol.wire import (
    Certificate,
    FromAgent,
    LogRequest,
    RevisionPair,
    ServiceAssignment,
    ServiceCertificate,
    ServiceCertificateRefused,
    VersionKey,
)


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message over a link."""

    link: int
    message: FromAgent


@dataclass(frozen=True, slots=True)
class Apply:
    """Make the mounts match `services` (all of them), then report by `Session.on_applied`."""

    revision: RevisionPair
    services: tuple[ServiceAssignment, ...]
    values: Mapping[VersionKey, SealedValue]
    """Values not yet in any mount, as they came; the core drops them once they are."""
    request_ids: tuple[str, ...] = ()
    """Of the requests that made what is to be put in place, for the log."""


@dataclass(frozen=True, slots=True)
class ReadLogs:
    """Answer with lines of a service's output over the link, in time; nothing waits for it."""

    link: int
    request: LogRequest


@dataclass(frozen=True, slots=True)
class WipeLapsed:
    """Leases ran out: publish each service with these files only and drop every older generation
    at once.
    """

    services: tuple[ServiceAssignment, ...]


@dataclass(frozen=True, slots=True)
class WipeAll:
    """Wipe and unmount everything."""

    reason: str


@dataclass(frozen=True, slots=True)
class SaveHighest:
    """Make the highest accepted revision durable, before anything of it is applied."""

    revision: RevisionPair


@dataclass(frozen=True, slots=True)
class SaveLease:
    """Remember the grant in force (CLOCK_BOOTTIME seconds), for this boot."""

    granted: Grant


@dataclass(frozen=True, slots=True)
class StoreManagers:
    """Remember the managers' addresses."""

    managers: tuple[str, ...]
    join_addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoreCertificate:
    """Check and store a renewed certificate with the key its request was made with."""

    certificate: Certificate


@dataclass(frozen=True, slots=True)
class TakeServiceCertificate:
    """Put a service's new certificate in place, or note that it was refused."""

    message: ServiceCertificate | ServiceCertificateRefused


@dataclass(frozen=True, slots=True)
class OpenSuccessor:
    """Open a second link, with the newest certificate; the present one stays meanwhile."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close a link; the core has already forgotten it."""

    link: int
    reason: str


@dataclass(frozen=True, slots=True)
class Reconnect:
    """No link is left: open one to another manager after `delay_s`."""

    delay_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """Log an error a person must learn of."""

    error: ClusterError


Effect = (
    Send
    | Apply
    | ReadLogs
    | WipeLapsed
    | WipeAll
    | SaveHighest
    | SaveLease
    | StoreManagers
    | StoreCertificate
    | TakeServiceCertificate
    | OpenSuccessor
    | Close
    | Reconnect
    | Report
)
