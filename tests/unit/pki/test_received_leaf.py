"""What a requester keeps: only a certificate for his key, from his cluster."""

import pytest

from cluster.pki.received_leaf import check_received
from cluster.protocol.errors import MalformedMessage, PermissionDenied
from cluster.protocol.identity import Kind
from tests.support.authority import ClusterAuthority


@pytest.fixture(scope="module")
def authority() -> ClusterAuthority:
    return ClusterAuthority()


def test_ours_is_read(authority: ClusterAuthority) -> None:
    held = authority.issue(Kind.OPERATOR, "alice")
    leaf = check_received([held.der], held.key_pem, authority.control_der)
    assert str(leaf.identity) == f"spiffe://{authority.trust_domain}/operator/alice"
    assert leaf.not_before < leaf.not_after == held.certificate.not_valid_after_utc


def test_one_for_another_key_is_refused(authority: ClusterAuthority) -> None:
    held, other = authority.issue(Kind.OPERATOR), authority.issue(Kind.OPERATOR)
    with pytest.raises(PermissionDenied, match="not for the key"):
        check_received([held.der], other.key_pem, authority.control_der)


@pytest.mark.parametrize("issuer", ["workload", "foreign"])
def test_one_from_another_authority_is_refused(authority: ClusterAuthority, issuer: str) -> None:
    held = (
        authority.issue(Kind.OPERATOR, authority=authority.workload)
        if issuer == "workload"
        else ClusterAuthority(authority.trust_domain).issue(Kind.OPERATOR)
    )
    with pytest.raises(PermissionDenied, match="not from this cluster"):
        check_received([held.der], held.key_pem, authority.control_der)


@pytest.mark.parametrize("names", [[], ["https://lab.test/"], ["spiffe://a/node/x"] * 2])
def test_one_that_names_nobody_is_refused(authority: ClusterAuthority, names: list[str]) -> None:
    held = authority.forge(names)
    with pytest.raises(PermissionDenied, match="names nobody"):
        check_received([held.der], held.key_pem, authority.control_der)


@pytest.mark.parametrize("chain", [[], [b""], [b"\x30\x03\x02\x01\x00"]])
def test_what_is_no_certificate_is_refused(authority: ClusterAuthority, chain: list[bytes]) -> None:
    held = authority.issue(Kind.OPERATOR)
    with pytest.raises(MalformedMessage):
        check_received(chain, held.key_pem, authority.control_der)
