"""A manager's place on the network: real TLS, or a real unix socket, with answers given before."""

import contextlib
import json
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

Reply = tuple[int, Any]
"""Status and JSON content; bytes go out as they are, None ends the connection without an answer."""


@dataclass
class Asked:
    """A request that arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401  # as json.loads
        return json.loads(self.body)


@dataclass
class Canned:
    """Answers by method and path, in turn; the last one is given again and again."""

    endpoint: str = ""
    asked: list[Asked] = field(default_factory=list)
    revision: str = ""
    _answers: dict[str, list[Reply | Callable[[Asked], Reply]]] = field(default_factory=dict)

    def on(self, request: str, *answers: Reply | Callable[[Asked], Reply]) -> None:
        """Answer `METHOD /path` (without its query) so."""
        self._answers[request] = list(answers)

    def answer(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        known = self._answers.get(f"{asked.method} {asked.path.partition('?')[0]}")
        if known is None:
            return 404, {"code": "not_found", "message": "no canned answer", "retryable": False}
        answer = known.pop(0) if len(known) > 1 else known[0]
        return answer(asked) if callable(answer) else answer

    def only(self) -> Asked:
        """Return the one request that arrived."""
        (asked,) = self.asked
        return asked


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        canned: Canned = self.server.canned  # type: ignore[attr-defined]  # set by `listening`
        size = int(self.headers.get("content-length", 0))
        headers = {key.lower(): value for key, value in self.headers.items()}
        body = self.rfile.read(size)
        status, content = canned.answer(Asked(self.command, self.path, headers, body))
        self.close_connection = True
        if content is None:
            return
        encoded = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(encoded)))
        if canned.revision:
            self.send_header("strongroom-revision", canned.revision)
        self.end_headers()
        self.wfile.write(encoded)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815  # http.server's names

    def log_message(self, *_args: object) -> None:
        return

    def address_string(self) -> str:
        return "local"


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(("127.0.0.1", 0), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  # as its base
        # In the request's own thread: a slow handshake holds up nobody else.
        with (
            contextlib.suppress(OSError),
            self._context.wrap_socket(request, server_side=True) as tls,
        ):
            super().finish_request(tls, client_address)

    def handle_error(self, *_args: object) -> None:
        return


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def handle_error(self, *_args: object) -> None:
        return


@contextlib.contextmanager
def tls_manager(context: ssl.SSLContext) -> Iterator[Canned]:
    """Answer on loopback over TLS while the block lasts."""
    server = _Server(context)
    with _listening(server, f"127.0.0.1:{server.server_address[1]}") as canned:
        yield canned


@contextlib.contextmanager
def admin_manager(path: Path) -> Iterator[Canned]:
    """Answer on a unix socket while the block lasts."""
    with _listening(_UnixServer(str(path), _Handler), str(path)) as canned:
        yield canned


@contextlib.contextmanager
def _listening(server: socketserver.BaseServer, endpoint: str) -> Iterator[Canned]:
    canned = Canned(endpoint)
    server.canned = canned  # type: ignore[attr-defined]  # read by the handler
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    try:
        yield canned
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()
