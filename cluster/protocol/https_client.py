"""A small blocking HTTPS client, for the command line and for joining.

Owns one exchange: connect to the first manager that answers, check that it is one, send, read with
limits. It keeps no connection and repeats no request that may have arrived: the caller repeats it,
under its request id. Starts fast (no http.client, no logging) and knows nothing of certificates:
the caller hands in the TLS context. A body may hold a secret and never gets into an error.
"""

import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from cluster.protocol.endpoints import Deadline, connect_any
from cluster.protocol.errors import (
    ClusterError,
    MalformedMessage,
    OutcomeUnknown,
    PayloadTooLarge,
    Unauthenticated,
    Unavailable,
)
from cluster.protocol.http_message import AnswerParser, BrokenAnswer, request_bytes

RESPONSE_LIMIT = 8 * 1024 * 1024
"""Bytes of a whole body."""
LINE_LIMIT = 1024 * 1024
_READ_SIZE = 65_536
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_REFUSED = (
    "the manager does not accept this certificate (expired, revoked or of another cluster); "
    "renew it or enrol again"
)


class Response:
    """A whole answer: `status`, `headers` (lower-case names) and `body`."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f"Response(status={self.status}, body=<{len(self.body)} bytes>)"


class LineStream:
    """An answer as it arrives: `status`, `headers`, then either `lines()` or `read()`, once."""

    __slots__ = ("_chunks", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], chunks: Iterator[bytes]) -> None:
        self.status = status
        self.headers = headers
        self._chunks = chunks

    def lines(self) -> Iterator[bytes]:
        """Yield each line without its end as soon as it is there (NDJSON)."""
        rest = b""
        for chunk in self._chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
            if len(rest) > LINE_LIMIT:
                raise PayloadTooLarge("a line of the manager's answer is too long")
        if rest:
            yield rest

    def read(self) -> bytes:
        """Return the whole body, or raise PayloadTooLarge over `RESPONSE_LIMIT`."""
        body = bytearray()
        for chunk in self._chunks:
            body += chunk
            if len(body) > RESPONSE_LIMIT:
                raise PayloadTooLarge("the manager's answer is too large")
        return bytes(body)


def request(
    endpoints: Sequence[str],
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
    trust_domain: str | None = None,
    timeout_s: float = 30.0,
    monotonic_s: Callable[[], float] | None = None,
) -> Response:
    """Return the answer of the first endpoint that can be reached, as `stream_lines` does."""
    with stream_lines(
        endpoints,
        method,
        path,
        body=body,
        headers=headers,
        context=context,
        trust_domain=trust_domain,
        timeout_s=timeout_s,
        monotonic_s=monotonic_s,
    ) as answer:
        return Response(answer.status, answer.headers, answer.read())


@contextmanager
def stream_lines(
    endpoints: Sequence[str],
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
    trust_domain: str | None = None,
    timeout_s: float = 30.0,
    monotonic_s: Callable[[], float] | None = None,
) -> Iterator[LineStream]:
    """Send a request and give its answer as a `LineStream` while the block lasts.

    `endpoints` are `host:port`, or `unix:/path` for the admin socket, which takes no TLS; any other
    takes a `context`. With `trust_domain` the server must be a manager of it; without, nothing is
    checked beyond the context: only for fetching what is proven otherwise. `timeout_s` bounds each
    wait, and with `monotonic_s` the whole exchange.

    Raises Unavailable if nobody answers, PermissionDenied for a server that is no manager,
    Unauthenticated if it refuses our certificate, OutcomeUnknown if it was lost after a request
    that may change something was sent.
    """
    wait = Deadline(timeout_s, monotonic_s)
    connection, host = connect_any(endpoints, context, trust_domain, wait)
    with connection:
        exchange = _Exchange(connection, wait, safe=method in _SAFE_METHODS)
        try:
            exchange.send(method, path, [("host", host), *(headers or {}).items()], body)
            status, answer_headers = exchange.read_head()
        except ClusterError:
            if exchange.ended_unheard and context and _is_refused(host, context, wait):
                raise Unauthenticated(_REFUSED) from None
            raise
        yield LineStream(status, answer_headers, exchange.chunks())


def _is_refused(endpoint: str, context: ssl.SSLContext, wait: Deadline) -> bool:
    """Return whether a second, harmless request is ended without a word as well.

    In TLS 1.3 a server judges a client's certificate after the client has finished its part, and
    asyncio drops the alert that says so. One such end may be a manager that died; two are a
    refusal.
    """
    try:
        connection, host = connect_any([endpoint], context, None, wait)
    except ClusterError:
        return False
    with connection:
        probe = _Exchange(connection, wait, safe=True)
        try:
            probe.send("HEAD", "/", [("host", host)], None)
            probe.read_head()
        except ClusterError:
            return probe.ended_unheard
    return False


class _Exchange:
    """One request and its answer."""

    def __init__(self, connection: socket.socket, wait: Deadline, *, safe: bool) -> None:
        self._socket = connection
        self._wait = wait
        self._safe = safe
        self._heard = False
        self._ended = False
        self._answer = AnswerParser("")
        self._content: list[bytes] = []

    @property
    def ended_unheard(self) -> bool:
        """Whether the server ended the connection before it said a word, even a TLS alert's."""
        return self._ended and not self._heard

    def send(
        self, method: str, path: str, headers: list[tuple[str, str]], body: bytes | None
    ) -> None:
        """Send the request whole."""
        content = request_bytes(method, path, headers, body)
        self._answer = AnswerParser(method)
        try:
            self._socket.settimeout(self._wait.left_s())
            self._socket.sendall(content)
        except (BrokenPipeError, ConnectionResetError):
            # The server may have answered and closed before it read everything: look at what it
            # said.
            return
        except OSError as error:
            raise self._lost(error) from None

    def read_head(self) -> tuple[int, dict[str, str]]:
        """Return status and headers."""
        while not self._answer.status:
            self._content += self._read_on()
        return self._answer.status, self._answer.headers

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it comes."""
        content, self._content = self._content, []
        yield from content
        while not self._answer.done:
            yield from self._read_on()

    def _read_on(self) -> list[bytes]:
        try:
            return self._answer.feed(self._receive())
        except BrokenAnswer:
            # Also a connection that ended in the middle of an answer.
            raise self._broken() from None

    def _receive(self) -> bytes:
        try:
            self._socket.settimeout(self._wait.left_s())
            data = self._socket.recv(_READ_SIZE)
        except OSError as error:
            raise self._lost(error) from None
        self._heard |= bool(data)
        self._ended |= not data
        return data

    def _broken(self) -> ClusterError:
        return (
            MalformedMessage("the manager's answer breaks off") if self._safe else OutcomeUnknown()
        )

    def _lost(self, error: OSError | None) -> ClusterError:
        """Return what it means that the connection ended here."""
        self._ended |= error is not None and not isinstance(error, TimeoutError)
        if not self._safe:
            return OutcomeUnknown()
        if isinstance(error, TimeoutError):
            return Unavailable("the manager did not answer in time; try again or another manager")
        return Unavailable("the connection to the manager was lost; try again")
