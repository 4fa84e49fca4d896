"""HTTP as bytes: what is sent, what is taken in, and how much is held."""

import pytest

from cluster.protocol.errors import InvalidRequest
from cluster.protocol.http_message import IDLE_LIMIT, AnswerParser, BrokenAnswer, request_bytes

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


def taken(raw: bytes, step: int, method: str = "GET") -> tuple[AnswerParser, bytes]:
    """Feed it in pieces and then the end, unless the answer is over before."""
    answer, body = AnswerParser(method), b""
    for at in range(0, len(raw), step):
        body += b"".join(answer.feed(raw[at : at + step]))
    if not answer.done:
        body += b"".join(answer.feed(b""))
    return answer, body


ANSWERS = {
    "length": (OK + b"Content-Length: 5\r\nX:  a b \t\r\n\r\nhello", 200, b"hello"),
    "chunks": (CHUNKED + b"3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\nx: trailer\r\n\r\n", 200, b"hello"),
    "to the end": (OK + b"connection: close\r\n\r\nhello", 200, b"hello"),
    "announced": (b"HTTP/1.1 100 Continue\r\nx: no\r\n\r\n" + OK + b"\r\nhello", 200, b"hello"),
    "nothing": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "more behind": (b"HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\nnoHTTP/1.1 \x00", 404, b"no"),
    "another behind": (OK + b"content-length: 2\r\n\r\nno" + OK + b"\r\nagain", 200, b"no"),
}


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize(("raw", "status", "body"), ANSWERS.values(), ids=list(ANSWERS))
def test_an_answer_is_read_however_it_is_cut(
    raw: bytes, status: int, body: bytes, step: int
) -> None:
    answer, found = taken(raw, step)
    assert (answer.status, found, answer.done) == (status, body, True)


def test_headers_are_by_lower_case_name_without_the_space_around_them() -> None:
    answer, _ = taken(OK + b"X-One:  a b \t\r\nContent-Length: 0\r\nx-one: second\r\n\r\n", 10_000)
    assert answer.headers == {"x-one": "second", "content-length": "0"}
    answer, _ = taken(ANSWERS["announced"][0], 10_000)
    assert answer.headers == {}
    answer, _ = taken(ANSWERS["chunks"][0], 10_000)
    assert answer.headers == {"transfer-encoding": "chunked"}


def test_the_answer_to_head_has_no_body() -> None:
    answer, body = taken(OK + b"content-length: 5\r\n\r\n", 10_000, "HEAD")
    assert (answer.status, answer.done, body) == (200, True, b"")


BROKEN = {
    "nothing": b"",
    "half a head": OK + b"x: ",
    "an announcement alone": b"HTTP/1.1 100 Continue\r\n\r\n",
    "half a body": OK + b"content-length: 10\r\n\r\nhalf",
    "half the chunks": CHUNKED + b"3\r\nhel\r\n",
    "two lengths": OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length of words": OK + b"content-length: five\r\n\r\nhello",
    "no size of a chunk": CHUNKED + b"x\r\nhel\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a change of protocol": b"HTTP/1.1 101 No\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhello",
}


@pytest.mark.parametrize("step", [1, 10_000])
@pytest.mark.parametrize("raw", BROKEN.values(), ids=list(BROKEN))
def test_what_is_no_whole_answer_is_refused(raw: bytes, step: int) -> None:
    with pytest.raises(BrokenAnswer):
        taken(raw, step)


ENDLESS = {
    "a header": (OK + b"x: ", b"y"),
    "headers": (OK, b"x: y\r\n"),
    "announcements": (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a trailer": (CHUNKED + b"0\r\nx: ", b"y"),
    "an extension of a chunk": (CHUNKED + b"3;", b"y"),
}


@pytest.mark.parametrize(("start", "more"), ENDLESS.values(), ids=list(ENDLESS))
def test_what_brings_the_answer_no_further_has_an_end(start: bytes, more: bytes) -> None:
    """Whoever answers, even one whose certificate nobody checked: our memory is not his."""
    answer, fed = AnswerParser("GET"), 0

    def go_on() -> None:
        nonlocal fed
        while fed <= 2 * IDLE_LIMIT:
            fed += len(more * 1000)
            answer.feed(more * 1000)

    answer.feed(start)
    with pytest.raises(BrokenAnswer):
        go_on()
    assert fed <= IDLE_LIMIT + len(more * 1000)


def test_a_long_body_is_no_idling() -> None:
    answer, size = AnswerParser("GET"), 0
    answer.feed(CHUNKED)
    for _ in range(3 * IDLE_LIMIT // 10):
        size += len(b"".join(answer.feed(b"4\r\nabcd\r\n")))
    assert size == 3 * IDLE_LIMIT // 10 * 4


def test_a_request_says_what_was_meant_and_closes() -> None:
    assert request_bytes("PUT", "/v1/a?b=c", [("host", "m:1"), ("x", "a b")], b"\x00body") == (
        b"PUT /v1/a?b=c HTTP/1.1\r\nhost: m:1\r\nx: a b\r\nconnection: close\r\n"
        b"content-length: 5\r\n\r\n\x00body"
    )
    assert request_bytes("GET", "/", [], None).endswith(b"content-length: 0\r\n\r\n")


HOSTILE = [("/\r\nx: y", ()), ("/a b", ()), ("", ()), ("/é", ())] + [
    ("/", ((name, value),))
    for name, value in (
        ("x", "a\r\ny: b"), ("x", "a\nb"), ("x", "a\x00b"), ("x", " a"), ("x", "a "), ("x", "é"),
        ("x y", "z"), ("x:", "z"), ("", "z"), ("x\r\ny", "z"),
    )
]  # fmt: skip


@pytest.mark.parametrize(("target", "headers"), HOSTILE, ids=str)
def test_nothing_is_slipped_into_a_head(target: str, headers: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(InvalidRequest):
        request_bytes("GET", target, headers, None)
