"""From a list of manager addresses to one open connection whose other end is a manager.

Owns connecting and its time limit; sends nothing. Host names prove nothing here: the SPIFFE id
does.
"""

import socket
import ssl
from collections.abc import Callable, Sequence

from cluster.protocol.errors import ClusterError, InvalidRequest, Unavailable
from cluster.protocol.server_identity import manager_identity

_PORT_DIGITS, _LAST_PORT = 5, 65_535
_MALFORMED = "a manager's address reads HOST:PORT, or [ADDRESS]:PORT for IPv6"

CONNECT_TIMEOUT_S = 5.0
"""For one manager, handshake included: a dead one must not hold up the way to the next."""


class Deadline:
    """Bounds each wait, and their sum where the caller lends a clock."""

    def __init__(self, timeout_s: float, monotonic_s: Callable[[], float] | None) -> None:
        self._timeout_s = timeout_s
        self._monotonic_s = monotonic_s
        self._end_s = monotonic_s() + timeout_s if monotonic_s is not None else 0.0

    def left_s(self) -> float:
        """Return how long the next wait may take; raise TimeoutError if no time is left."""
        if self._monotonic_s is None:
            return self._timeout_s
        left_s = self._end_s - self._monotonic_s()
        if left_s <= 0:
            raise TimeoutError("the time allowed has passed")
        return left_s


def connect_any(
    endpoints: Sequence[str],
    context: ssl.SSLContext | None,
    trust_domain: str | None,
    wait: Deadline,
) -> tuple[socket.socket, str]:
    """Return a connection to the first endpoint that takes one, and the name for the Host header.

    An impostor with a certificate of ours ends the search: that is an attack, not an outage.
    """
    failures: list[str] = []
    for endpoint in endpoints:
        try:
            return _connect(endpoint, context, trust_domain, wait)
        except OSError as error:
            failures.append(f"{endpoint}: {_reason(error)}")
    raise Unavailable(
        f"no manager answers ({'; '.join(failures) or 'no address given'}); "
        "check the addresses and `strongroom status`"
    )


def _connect(
    endpoint: str, context: ssl.SSLContext | None, trust_domain: str | None, wait: Deadline
) -> tuple[socket.socket, str]:
    if endpoint.startswith("unix:"):
        local = socket.socket(socket.AF_UNIX)
        try:
            local.settimeout(wait.left_s())
            local.connect(endpoint.removeprefix("unix:"))
        except OSError:
            local.close()
            raise
        return local, "localhost"
    if context is None:
        raise InvalidRequest("a manager is reached by TLS only")
    host, port = _split(endpoint)
    try:
        # The handshake is under this limit too: a manager that is paused takes connections.
        limit_s = min(wait.left_s(), CONNECT_TIMEOUT_S)
        plain = socket.create_connection((host, port), timeout=limit_s)
    except UnicodeError:
        raise InvalidRequest(_MALFORMED) from None
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secured = context.wrap_socket(plain, server_hostname=host)
    except OSError:
        plain.close()
        raise
    try:
        if trust_domain is not None:
            manager_identity(secured.getpeercert(), trust_domain)
    except ClusterError:
        secured.close()
        raise
    return secured, endpoint


def _split(endpoint: str) -> tuple[str, int]:
    """Return host and port of `host:port`, `[v6]:port`."""
    host, colon, port = endpoint.rpartition(":")
    is_number = port.isascii() and port.isdigit() and len(port) <= _PORT_DIGITS
    if not colon or not host or not is_number or int(port) > _LAST_PORT:
        raise InvalidRequest(_MALFORMED)
    return host.removeprefix("[").removesuffix("]"), int(port)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not verify ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return error.strerror or "connection failed"
