"""Who is at the other end: from TLS certificate to `Caller`, and the register of connections.

Owns the one place where an identity enters the API, and the end of a connection at its
certificate's end or at its revocation. It judges no rights. No header is ever trusted for identity.

uvicorn 0.54 gives the application no peer certificate. Its protocol classes copy `app_state` into
`scope["state"]` of every request and hand it to the WebSocket protocol, which is not public: the
dependency is pinned and tests/unit/api/test_peer.py holds the contract.
"""

import asyncio
import contextlib
import ssl
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import structlog
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from cluster.api.bounded_http import BoundedHttpProtocol
from cluster.api.refused import CountRefused, Refused, uncounted
from cluster.pki.tls import caller_from_der
from cluster.protocol.errors import ClusterError, TooManyRequests, Unauthenticated
from cluster.protocol.identity import Caller
from cluster.system import Clock

log = structlog.get_logger()

_CALLER: Final = "strongroom.caller"
CONNECTIONS_PER_PEER: Final = 128
"""Open at once by one certificate, or by one address where there is none: a peer that opens more
would take the descriptors of all others."""
STRANGERS_TOGETHER: Final = 512
"""Open at once without a certificate; then the address that has the most loses its oldest."""


def caller_of(scope: Mapping[str, Any]) -> Caller | None:
    """Return whom TLS has authenticated for this ASGI scope; None without a client certificate."""
    caller = scope.get("state", {}).get(_CALLER)
    return caller if isinstance(caller, Caller) else None


@dataclass(eq=False, slots=True)
class Connection:
    """One authenticated connection while it lives."""

    caller: Caller
    transport: asyncio.Transport
    expiry: asyncio.TimerHandle | None = None


class ConnectionRegistry:
    """Knows every authenticated connection; ends it at notAfter, and on revocation by `cut`.

    Lives on the loop's thread. A cut aborts: a polite TLS close would wait for the very peer that
    is thrown out.
    """

    def __init__(
        self,
        trust_domain: str,
        clock: Clock,
        look_again_s: float = 60.0,
        made_room: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the cluster's trust domain; the calendar may jump unnoticed for `look_again_s`.

        `made_room` hears of each stranger's connection that had to go for another's.
        """
        self._made_room = made_room
        self._trust_domain = trust_domain
        self._clock = clock
        self._look_again_s = look_again_s
        self._by_transport: dict[asyncio.BaseTransport, Connection] = {}
        self._by_fingerprint: defaultdict[str, set[Connection]] = defaultdict(set)
        self._strangers: dict[asyncio.Transport, str] = {}
        self._by_address: Counter[str] = Counter()

    def total(self) -> int:
        """Return how many authenticated connections are open."""
        return len(self._by_transport)

    def open_by_peer(self) -> int:
        """Return the most connections that one peer has open."""
        certified = (len(same) for same in self._by_fingerprint.values())
        return max((*certified, *self._by_address.values()), default=0)

    def count(self, fingerprint: str) -> int:
        """Return how many connections this certificate holds open."""
        return len(self._by_fingerprint.get(fingerprint, ()))

    def admit(self, transport: asyncio.Transport) -> Caller | None:
        """Return who is at the other end, watched from now on; None without a certificate.

        Raises Unauthenticated for a certificate that TLS accepts and we do not, TooManyRequests for
        a peer that has `CONNECTIONS_PER_PEER` open.
        """
        connection = transport.get_extra_info("ssl_object")
        der = connection.getpeercert(True) if isinstance(connection, _TLS_ENDS) else None
        if der is None:
            self._count_stranger(transport)
            return None
        caller = caller_from_der(der)
        left_s = caller.not_after_s - self._clock.now().timestamp()
        if caller.identity.trust_domain != self._trust_domain or left_s <= 0:
            raise Unauthenticated
        if self.count(caller.fingerprint) >= CONNECTIONS_PER_PEER:
            raise TooManyRequests
        watched = Connection(caller, transport)
        self._by_transport[transport] = watched
        self._by_fingerprint[caller.fingerprint].add(watched)
        self._watch_expiry(watched)
        return caller

    def forget(self, transport: asyncio.BaseTransport) -> None:
        """Drop a connection that ended; once more does no harm."""
        address = self._strangers.pop(cast("asyncio.Transport", transport), None)
        if address is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]
        watched = self._by_transport.pop(transport, None)
        if watched is None:
            return
        if watched.expiry is not None:
            watched.expiry.cancel()
        same = self._by_fingerprint[watched.caller.fingerprint]
        same.discard(watched)
        if not same:
            del self._by_fingerprint[watched.caller.fingerprint]

    def cut(self, fingerprint: str) -> int:
        """End every connection of this certificate at once; return how many."""
        return self._cut_all(list(self._by_fingerprint.get(fingerprint, ())), "revoked")

    def cut_identity(self, identity: str) -> int:
        """End every connection of this SPIFFE id, whatever its certificate; return how many."""
        of_identity = [
            watched
            for watched in self._by_transport.values()
            if str(watched.caller.identity) == identity
        ]
        return self._cut_all(of_identity, "revoked")

    def _count_stranger(self, transport: asyncio.Transport) -> None:
        peer = transport.get_extra_info("peername")
        if not isinstance(peer, tuple):  # a unix socket: its path's mode says who may
            return
        address = str(peer[0])
        if self._by_address[address] >= CONNECTIONS_PER_PEER or not self._has_room(address):
            raise TooManyRequests
        self._by_address[address] += 1
        self._strangers[transport] = address

    def _has_room(self, address: str) -> bool:
        """Return whether one more stranger fits; make room if another address has more open."""
        if len(self._strangers) < STRANGERS_TOGETHER:
            return True
        busiest, most = self._by_address.most_common(1)[0]
        if most <= self._by_address[address] + 1:
            return False
        oldest = next(one for one, of in self._strangers.items() if of == busiest)
        self.forget(oldest)
        self._made_room()
        oldest.abort()
        return True

    def _cut_all(self, connections: list[Connection], reason: str) -> int:
        for watched in connections:
            log.info("connection.cut", identity=str(watched.caller.identity), reason=reason)
            self.forget(watched.transport)
            watched.transport.abort()
        return len(connections)

    def _watch_expiry(self, watched: Connection) -> None:
        left_s = watched.caller.not_after_s - self._clock.now().timestamp()
        if left_s <= 0:
            self._cut_all([watched], "expired")
            return
        loop = asyncio.get_running_loop()
        watched.expiry = loop.call_later(
            min(left_s, self._look_again_s), self._watch_expiry, watched
        )


_TLS_ENDS = (ssl.SSLObject, ssl.SSLSocket)


class PeerHttpProtocol(BoundedHttpProtocol):
    """uvicorn's HTTP protocol, whose requests carry the caller; `peer_protocols` binds it."""

    registry: ConnectionRegistry

    # uvicorn narrows the argument as well.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Authenticate once per connection, before a byte of a request is read."""
        super().connection_made(transport)
        try:
            caller = self.registry.admit(transport)
        except ClusterError as error:
            peer = transport.get_extra_info("peername")
            log.warning("connection.refused", peer=peer, code=error.code)
            crowded = isinstance(error, TooManyRequests)
            self.count_refused(Refused.CONNECTIONS if crowded else Refused.CERTIFICATE)
            transport.abort()
            return
        self.app_state = {**self.app_state, _CALLER: caller}

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.registry.forget(self.transport)
        super().connection_lost(exc)


class PeerWebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol: takes over the transport, and with it the duty to forget it."""

    registry: ConnectionRegistry

    def shutdown(self) -> None:
        """Say goodbye as the listener ends, unless the peer is saying it already."""
        with contextlib.suppress(InvalidState):
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.registry.forget(self.transport)
        super().connection_lost(exc)


def peer_protocols(
    registry: ConnectionRegistry, count_refused: CountRefused = uncounted
) -> tuple[type[PeerHttpProtocol], type[PeerWebSocketProtocol]]:
    """Return the classes for uvicorn's `http=` and `ws=`, which report to `registry`.

    uvicorn makes the instances itself, so the register travels on the class.
    """
    own = {"registry": registry, "count_refused": staticmethod(count_refused)}
    http = type("BoundPeerHttpProtocol", (PeerHttpProtocol,), own)
    websocket = type("BoundPeerWebSocketProtocol", (PeerWebSocketProtocol,), {"registry": registry})
    return cast("type[PeerHttpProtocol]", http), cast("type[PeerWebSocketProtocol]", websocket)
