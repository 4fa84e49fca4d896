"""What a listener turns away before any work, by reason, and where that is counted.

Owns the reasons; whoever turns something away names one of them, and `cluster.metrics` counts. None
of it is in the audit or in a log line for each request: what is over a limit must fill neither. Who
has a certificate and was over a limit of his own is told once a minute, by
`cluster.api.limited_log`.
"""

from collections.abc import Callable
from enum import StrEnum


class Refused(StrEnum):
    """Why a connection or a request got no further."""

    CROWD = "crowd"
    """Too many unfinished handshakes, of its address or in all; closed before or during its own."""
    HANDSHAKE = "handshake"
    """TLS came to no end: no certificate or one that is not believed, silence, or a hang-up."""
    CERTIFICATE = "certificate"
    """TLS believes the certificate, and we do not: another trust domain, or expired since."""
    CONNECTIONS = "connections"
    """Too many open connections, of its certificate or address or of strangers in all."""
    SLOW = "slow"
    """A request that was not whole in time."""
    LARGE = "large"
    """A head that grew too large, or a message far beyond any body."""
    RATE = "rate"
    """429: the caller asks too often."""
    CONCURRENCY = "concurrency"
    """429: too many requests are being answered, of this caller's or in all."""
    BODY = "body"
    """413: the body is larger than its route takes."""
    SESSIONS = "sessions"
    """The caller opens agent sessions too often."""


CountRefused = Callable[[Refused], None]


def uncounted(_why: Refused) -> None:
    """Count nothing: for listeners that only this machine reaches."""
