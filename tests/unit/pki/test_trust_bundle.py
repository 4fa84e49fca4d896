"""A bundle is believed for its root's digest and the root's signatures."""

import json

import msgspec
import pytest

from cluster.pki.trust_bundle import CERTIFICATES_LIMIT, TrustBundle
from cluster.protocol.errors import MalformedMessage, PermissionDenied
from cluster.protocol.identity import Kind
from tests.support.authority import ClusterAuthority


@pytest.fixture(scope="module")
def cluster() -> ClusterAuthority:
    return ClusterAuthority()


@pytest.fixture(scope="module")
def stranger() -> ClusterAuthority:
    return ClusterAuthority()


def test_bundle_proves_itself(cluster: ClusterAuthority) -> None:
    bundle = cluster.bundle()
    bundle.verify(bundle.root_digest())


def test_bundle_survives_json(cluster: ClusterAuthority) -> None:
    text = json.dumps(cluster.bundle().to_dict())
    assert TrustBundle.from_dict(json.loads(text)) == cluster.bundle()


def test_another_clusters_bundle_is_refused(
    cluster: ClusterAuthority, stranger: ClusterAuthority
) -> None:
    with pytest.raises(PermissionDenied, match="do not join"):
        stranger.bundle().verify(cluster.bundle().root_digest())


@pytest.mark.parametrize("field", ["control", "workload"])
def test_smuggled_authority_is_refused(
    cluster: ClusterAuthority, stranger: ClusterAuthority, field: str
) -> None:
    """The pinned root beside the attacker's own root and authority."""
    bundle = cluster.bundle()
    foreign: tuple[bytes, ...] = getattr(stranger.bundle(), field)
    smuggled = msgspec.structs.replace(
        bundle,
        roots=(*bundle.roots, stranger.root_der),
        **{field: (*getattr(bundle, field), *foreign)},
    )
    with pytest.raises(PermissionDenied, match="not signed"):
        smuggled.verify(bundle.root_digest())


def test_leaf_is_no_authority(cluster: ClusterAuthority) -> None:
    leaf = cluster.issue(Kind.NODE, authority=cluster.root).der
    bundle = msgspec.structs.replace(cluster.bundle(), control=(leaf,))
    with pytest.raises(PermissionDenied, match="not an authority"):
        bundle.verify(bundle.root_digest())


def test_bundle_without_control_authority_is_refused(cluster: ClusterAuthority) -> None:
    bundle = msgspec.structs.replace(cluster.bundle(), control=())
    with pytest.raises(PermissionDenied):
        bundle.verify(bundle.root_digest())


@pytest.mark.parametrize(
    "change",
    [
        {"roots": []},
        {"roots": "x"},
        {"roots": ["no base64!"]},
        {"format": 2},
        {"control": ["AAAA"] * (CERTIFICATES_LIMIT + 1)},
    ],
    ids=str,
)
def test_malformed_bundle_is_refused(cluster: ClusterAuthority, change: dict[str, object]) -> None:
    with pytest.raises(MalformedMessage):
        TrustBundle.from_dict({**cluster.bundle().to_dict(), **change})


def test_bytes_that_are_no_certificate_are_refused(cluster: ClusterAuthority) -> None:
    bundle = msgspec.structs.replace(cluster.bundle(), control=(b"\x30\x00",))
    with pytest.raises(MalformedMessage):
        bundle.verify(bundle.root_digest())


def test_pem_holds_every_certificate(cluster: ClusterAuthority) -> None:
    begin = b"-----BEGIN CERTIFICATE-----"
    assert cluster.bundle().to_pem().count(begin) == 3
    assert cluster.bundle().control_pem().count(begin) == 1
    assert cluster.bundle().workload_pem() != cluster.bundle().control_pem()
