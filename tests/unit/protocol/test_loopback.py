"""A health check's URL leads to this machine's loopback, by one reading, or nowhere."""

import pytest

from cluster.protocol.errors import InvalidRequest
from cluster.protocol.loopback import LoopbackUrl, parse_loopback_url


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        (
            "http://127.0.0.1:8080/health?deep=1",
            LoopbackUrl(("127.0.0.1",), 8080, "127.0.0.1:8080", "/health?deep=1"),
        ),
        ("http://[::1]:1", LoopbackUrl(("::1",), 1, "[::1]:1", "/")),
        ("http://localhost", LoopbackUrl(("127.0.0.1", "::1"), 80, "localhost:80", "/")),
        ("http://localhost?a", LoopbackUrl(("127.0.0.1", "::1"), 80, "localhost:80", "/?a")),
    ],
)
def test_loopback_urls_are_taken_apart(url: str, parts: LoopbackUrl) -> None:
    assert parse_loopback_url(url) == parts


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://127.0.0.1/",
        "http://127.0.0.2/",
        "http://10.0.0.1/",
        "http://127.0.0.1.example.org/",
        "http://127.0.0.1@example.org/",
        "http://user@127.0.0.1/",
        "http://localhost.example.org/",
        "http://LOCALHOST/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://[::]/",
        "http://[::ffff:10.0.0.1]/",
        "http://::1/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:65536/",
        "http://127.0.0.1:/",
        "http://127.0.0.1:80:80/",
        "http://127.0.0.1:٨٠/",
        "http://127.0.0.1:8080health",
        "http://127.0.0.1/#fragment",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\r\nx-injected: 1",
        "http://127.0.0.1/\n",
        "http://127.0.0.1/é",
        "file:///etc/passwd",
        "http://127.0.0.1/" + "a" * 1024,
    ],
)
@pytest.mark.threat("T-35")
def test_every_other_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="http:"):
        parse_loopback_url(url)
