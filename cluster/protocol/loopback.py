"""URLs of a machine's own loopback: what a node may be told to fetch for a health check.

Owns the one reading of such a URL, so that what a manager accepts and what an agent connects to
cannot differ. No name is resolved: `localhost` means the two addresses below, whatever a resolver
says. Source: RFC 3986, RFC 6761 section 6.3.
"""

import re
from dataclasses import dataclass
from typing import Final

from cluster.protocol.errors import InvalidRequest

MAX_URL_BYTES: Final = 1024
_HOSTS: Final = {
    "127.0.0.1": ("127.0.0.1",),
    "[::1]": ("::1",),
    "localhost": ("127.0.0.1", "::1"),
}
_HTTP_PORT: Final = 80
_MAX_PORT: Final = 65_535
# Printable ASCII without a space: nothing that could end the request line or begin a header.
_URL: Final = re.compile(
    r"http://(?P<host>127\.0\.0\.1|\[::1\]|localhost)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?][!-\"$-~]*)?"
)


@dataclass(frozen=True, slots=True)
class LoopbackUrl:
    """A URL taken apart: `target` is what the request line names, `authority` the Host header."""

    addresses: tuple[str, ...]
    """Tried in this order."""
    port: int
    authority: str
    target: str


def parse_loopback_url(url: str) -> LoopbackUrl:
    """Return the parts of an http URL on loopback.

    Raises InvalidRequest for any other scheme or host, a user, a fragment, or an odd character.
    """
    found = _URL.fullmatch(url) if len(url) <= MAX_URL_BYTES else None
    port = int(found["port"] or _HTTP_PORT) if found is not None else 0
    if found is None or not 1 <= port <= _MAX_PORT:
        raise InvalidRequest(
            "a health check fetches http://127.0.0.1, http://[::1] or http://localhost, with a "
            f"port and a path of printable ASCII, at most {MAX_URL_BYTES} bytes; use a command "
            "for anything else"
        )
    target = found["target"] or "/"
    return LoopbackUrl(
        addresses=_HOSTS[found["host"]],
        port=port,
        authority=f"{found['host']}:{port}",
        target=target if target.startswith("/") else f"/{target}",
    )
