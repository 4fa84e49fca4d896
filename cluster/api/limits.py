"""Limits before any work: body sizes, request rates, concurrency.

Pure ASGI, so that a refused request costs microseconds. What it refuses it does not read. It knows
callers only as opaque keys: a certificate's fingerprint, or an address where there is none. Whose
limit it was is told by `cluster.api.limited_log`.
"""

import sys
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.api.error_map import error_response
from cluster.api.limited_log import LimitedLog
from cluster.api.peer import caller_of
from cluster.api.refused import CountRefused, Refused, uncounted
from cluster.protocol.errors import ClusterError, PayloadTooLarge, TooManyRequests
from cluster.system import Clock

CALLERS_REMEMBERED: Final = 10_000
"""The table of buckets is bounded: a flood of addresses forgets the oldest, not the limit of
memory."""
CLOSE: Final = (b"connection", b"close")
LENGTH_DIGITS: Final = 18
"""Of a Content-Length that is still a number to us."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket's shape."""

    per_s: float
    burst: float


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


@dataclass(slots=True)
class RateLimiter:
    """One token bucket per key, in a table of bounded size."""

    rate: Rate
    clock: Clock
    _buckets: OrderedDict[str, _Bucket] = field(default_factory=OrderedDict)

    def allow(self, key: str) -> bool:
        """Take one token for `key`; False if there is none."""
        now = self.clock.monotonic_s()
        bucket = self._buckets.pop(key, None) or _Bucket(self.rate.burst, now)
        bucket.tokens = min(self.rate.burst, bucket.tokens + (now - bucket.at) * self.rate.per_s)
        bucket.at = now
        self._buckets[key] = bucket
        if len(self._buckets) > CALLERS_REMEMBERED:
            self._buckets.popitem(last=False)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True


@dataclass(slots=True)
class Limits:
    """ASGI middleware: rate per caller, concurrent requests over all, bytes per body.

    One caller takes half of the concurrency at most, so that nobody's slow requests shut out all
    others.
    """

    app: ASGIApp
    limiter: RateLimiter
    sessions: RateLimiter
    """For WebSockets: each opening writes to the store."""
    concurrency: int
    body_bytes: Callable[[str], int]
    """Path -> the largest body it takes."""
    limited: LimitedLog
    count_refused: CountRefused = uncounted
    _running: Counter[str] = field(default_factory=Counter)
    _together: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        key = _key(scope)
        if scope["type"] == "websocket" and not self.sessions.allow(key):
            # Before it is accepted: the handshake is answered with 403.
            self.count_refused(Refused.SESSIONS)
            self.limited.note(scope, Refused.SESSIONS)
            await send({"type": "websocket.close"})
        elif scope["type"] != "http":
            await self.app(scope, receive, send)
        else:
            await self._pass_on(key, scope, receive, send)

    async def _pass_on(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self.body_bytes(scope["path"])
        why = self._refused(key, scope, limit)
        if why is not None:
            self.count_refused(why)
            # Where all others fill the listener, who comes then is over no limit of his own.
            if why is not Refused.CONCURRENCY or self._has_its_half(key):
                self.limited.note(scope, why)
            error = PayloadTooLarge() if why is Refused.BODY else TooManyRequests()
            await _refusal(error)(scope, receive, send)
            return
        self._running[key] += 1
        self._together += 1
        body = _Counted(receive, send, limit, self.count_refused)
        try:
            await self.app(scope, body.receive, body.send)
        finally:
            self._together -= 1
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]

    def _refused(self, key: str, scope: Scope, limit: int) -> Refused | None:
        if not self.limiter.allow(key):
            return Refused.RATE
        if self._is_full(key):
            return Refused.CONCURRENCY
        return Refused.BODY if _declared_length(scope) > limit else None

    def _is_full(self, key: str) -> bool:
        return self._together >= self.concurrency or self._has_its_half(key)

    def _has_its_half(self, key: str) -> bool:
        return self._running.get(key, 0) >= self.concurrency // 2


@dataclass(slots=True)
class _Counted:
    """Stops a body that grows past its limit (chunked bodies declare no length), and closes."""

    _receive: Receive
    _send: Send
    _limit: int
    _count_refused: CountRefused
    _seen: int = 0
    _refused: bool = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        if self._seen > self._limit:
            if not self._refused:
                self._refused = True
                self._count_refused(Refused.BODY)
            raise PayloadTooLarge
        return message

    async def send(self, message: Message) -> None:
        if self._seen > self._limit and message["type"] == "http.response.start":
            # On a connection that stays open the rest of the body would be read and thrown away.
            message = {**message, "headers": [*message["headers"], CLOSE]}
        await self._send(message)


def _key(scope: Scope) -> str:
    caller = caller_of(scope)
    if caller is not None:
        return caller.fingerprint
    client = scope.get("client")
    return _network(client[0]) if client else "local"


def _network(host: str) -> str:
    """Return what stands for a stranger's host: with IPv6 it has a whole /64 to call from."""
    try:
        address = IPv6Address(host)
    except ValueError:
        return host
    return str(IPv6Network((int(address), 64), strict=False))


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) <= LENGTH_DIGITS else sys.maxsize
    return 0


def _refusal(error: ClusterError) -> Response:
    response = error_response(error)
    response.raw_headers.append(CLOSE)
    return response
