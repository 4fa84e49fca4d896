"""Whom a client believes to be a manager."""

import pytest

from cluster.protocol.errors import PermissionDenied
from cluster.protocol.identity import Kind, SpiffeId
from cluster.protocol.server_identity import manager_identity

MANAGER = "spiffe://lab.test/manager/m1"


def certificate(*uris: str) -> dict[str, object]:
    return {"subjectAltName": (("DNS", "m1"), *(("URI", uri) for uri in uris))}


def test_manager_is_named() -> None:
    named = manager_identity(certificate(MANAGER), "lab.test")
    assert named == SpiffeId("lab.test", Kind.MANAGER, "m1")


@pytest.mark.parametrize(
    "shown",
    [
        None,
        {},
        {"subjectAltName": ()},
        {"subjectAltName": "spiffe://lab.test/manager/m1"},
        certificate(),
        certificate(MANAGER, MANAGER),
        certificate("spiffe://lab.test/node/m1"),
        certificate("spiffe://lab.test.evil.test/manager/m1"),
        certificate("spiffe://evil.test/manager/m1"),
        certificate("https://lab.test/manager/m1"),
        certificate("spiffe://lab.test/manager/m1/.."),
    ],
    ids=str,
)
def test_nobody_else_is_believed(shown: dict[str, object] | None) -> None:
    with pytest.raises(PermissionDenied):
        manager_identity(shown, "lab.test")
