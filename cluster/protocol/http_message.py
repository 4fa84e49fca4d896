"""One HTTP/1.1 request as bytes, and its answer from bytes: no socket, no TLS.

Owns the shape of a head that is sent and the limit on what is held of an answer. Parsing is
llhttp's, strict as it comes: it refuses both lengths at once, folded headers and bare line ends.
What was received is never part of an error. Source: RFC 9112; httptools.
"""

import re
from collections.abc import Sequence

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from cluster.protocol.errors import InvalidRequest

IDLE_LIMIT = 32 * 1024
"""Bytes that bring an answer no further: of its head, trailers, or what stands before them."""

_TARGET = re.compile(r"[!-~]+")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"(?:[!-~](?:[\t -~]*[!-~])?)?")
_FINAL = 200
"""Answers below it are announcements: another follows."""


class BrokenAnswer(Exception):  # noqa: N818  # its user turns it into an error of the tree
    """What came is no HTTP answer, or ends before its end."""


def request_bytes(
    method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes | None
) -> bytes:
    """Return a request after which the connection closes; InvalidRequest where its head would hold
    more than was meant."""
    headers = [*headers, ("connection", "close"), ("content-length", str(len(body or b"")))]
    if _TARGET.fullmatch(target) is None or not all(
        _NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in headers
    ):
        raise InvalidRequest("the request has a malformed path or header")
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (body or b"")


class AnswerParser:
    """Takes in one answer as it comes. The parser calls the methods that begin with `on_`."""

    def __init__(self, method: str) -> None:
        self.status = 0
        """0 until the head is there."""
        self.headers: dict[str, str] = {}
        """By lower-case names."""
        self.done = False
        self._has_no_body = method == "HEAD"
        self._content: list[bytes] = []
        self._idle = 0
        self._parser = HttpResponseParser(self)

    def feed(self, data: bytes) -> list[bytes]:
        """Take in what was received and return what of the body is in it; empty: the end.

        Raises BrokenAnswer.
        """
        if not data:
            self._end()
            return []
        self._idle += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            # Nobody listens to what follows an answer.
            if not self.done:
                raise BrokenAnswer from None
        if self._idle > IDLE_LIMIT and not self.done:
            raise BrokenAnswer
        content, self._content = self._content, []
        return content

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; what comes behind a body is none."""
        if not self.status:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip(" \t")

    def on_headers_complete(self) -> None:
        """Take an answer's head; forget an announcement's."""
        if self.done:
            return
        status = self._parser.get_status_code()
        if status < _FINAL:
            self.headers = {}
            return
        self.status = status
        self.done = self._has_no_body
        self._idle = 0

    def on_body(self, content: bytes) -> None:
        """Keep a piece of the body until it is asked for."""
        if not self.done:
            self._content.append(content)
            self._idle = 0

    def on_message_complete(self) -> None:
        """Note the end of the answer."""
        self.done = self.done or bool(self.status)

    def _end(self) -> None:
        """The connection has ended: that is the end of a body whose length was not told."""
        if not self.done and (
            not self.status or self.headers.keys() & {"content-length", "transfer-encoding"}
        ):
            raise BrokenAnswer
        self.done = True
