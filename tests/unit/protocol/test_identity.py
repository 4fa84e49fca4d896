"""SPIFFE ids are taken exactly as we write them, or not at all."""

import pytest

from cluster.protocol.errors import InvalidRequest
from cluster.protocol.identity import Kind, SpiffeId


@pytest.mark.parametrize("kind", list(Kind))
def test_identity_survives_its_text(kind: Kind) -> None:
    identity = SpiffeId("lab.test", kind, "Subject-1.x_y")
    assert SpiffeId.parse(str(identity)) == identity


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://",
        "spiffe://lab.test",
        "spiffe://lab.test/node",
        "spiffe://lab.test/node/",
        "spiffe://lab.test/node/a/b",
        "spiffe://lab.test//node/a",
        "spiffe://lab.test/node/a?x=y",
        "spiffe://lab.test/node/a#b",
        "spiffe://lab.test/node/%61",
        "spiffe://lab.test/node/..",
        "spiffe://lab.test/node/a..b",
        "spiffe://lab.test/node/a\n",
        "spiffe://lab.test/node/é",
        "spiffe://lab.test/Node/a",
        "spiffe://Lab.test/node/a",
        "spiffe://lab..test/node/a",
        "spiffe://lab.test:7443/node/a",
        "spiffe://user@lab.test/node/a",
        "spiffe:/lab.test/node/a",
        "http://lab.test/node/a",
        "SPIFFE://lab.test/node/a",
        " spiffe://lab.test/node/a",
        "spiffe://lab.test/node/" + "a" * 65,
    ],
)
def test_anything_else_is_refused(uri: str) -> None:
    with pytest.raises(InvalidRequest):
        SpiffeId.parse(uri)


@pytest.mark.parametrize(("domain", "subject"), [("", "a"), ("-x", "a"), ("x/y", "a"), ("x", "")])
def test_identity_cannot_be_made_of_bad_parts(domain: str, subject: str) -> None:
    with pytest.raises(InvalidRequest):
        SpiffeId(domain, Kind.NODE, subject)
