"""What a service trusts by its `ca.crt`, as any TLS library reads it: no partial chains."""

import ssl
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cluster.pki.ca import trust_anchor
from cluster.pki.tls import load_chain
from cluster.protocol.identity import Kind
from tests.support.authority import ClusterAuthority, Credential


@pytest.fixture
def cluster() -> ClusterAuthority:
    return ClusterAuthority()


def ca_pem(cluster: ClusterAuthority) -> str:
    return trust_anchor(cluster.workload, cluster.entropy).public_bytes(Encoding.PEM).decode()


def context_of(credential: Credential, ca: str, *, server: bool, strict: bool) -> ssl.SSLContext:
    """Return a context as an application makes it."""
    purpose = ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH
    context = ssl.create_default_context(purpose, cadata=ca)
    context.verify_flags &= ~ssl.VERIFY_X509_PARTIAL_CHAIN
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    load_chain(context, credential.chain_pem, credential.key_pem)
    return context


def shake_hands(server: Credential, client: Credential, ca: str, *, strict: bool = False) -> None:
    """Run a mutual handshake in memory; both ends trust `ca` alone."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_end = context_of(server, ca, server=True, strict=strict).wrap_bio(
        to_server, to_client, server_side=True
    )
    client_end = context_of(client, ca, server=False, strict=strict).wrap_bio(to_client, to_server)
    for _ in range(4):
        for end in (client_end, server_end):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    assert client_end.getpeercert()
    assert server_end.getpeercert()


@pytest.mark.parametrize("strict", [False, True])
def test_services_of_one_cluster_believe_each_other(
    cluster: ClusterAuthority, strict: bool
) -> None:
    red, blue = cluster.issue(Kind.SERVICE, "red"), cluster.issue(Kind.SERVICE, "blue")
    shake_hands(red, blue, ca_pem(cluster), strict=strict)


@pytest.mark.threat("T-31")
@pytest.mark.parametrize("kind", [Kind.MANAGER, Kind.NODE, Kind.OPERATOR])
def test_service_does_not_believe_a_control_certificate(
    cluster: ClusterAuthority, kind: Kind
) -> None:
    """Not even one that sends the root along."""
    service, other = cluster.issue(Kind.SERVICE, "red"), cluster.issue(kind)
    root = cluster.root.certificate.public_bytes(Encoding.PEM)
    with_root = Credential(other.certificate, other.chain_pem + root, other.key_pem)
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        shake_hands(service, with_root, ca_pem(cluster))


@pytest.mark.threat("T-31")
def test_service_does_not_believe_another_clusters_service(cluster: ClusterAuthority) -> None:
    stranger = ClusterAuthority().issue(Kind.SERVICE, "red")
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        shake_hands(cluster.issue(Kind.SERVICE, "red"), stranger, ca_pem(cluster))


@pytest.mark.control("T-31", without="cluster/pki/ca.py::trust_anchor")
def test_root_as_anchor_makes_a_service_believe_a_node(cluster: ClusterAuthority) -> None:
    """What `ca.crt` holds is all there is between the two."""
    red, node = cluster.issue(Kind.SERVICE, "red"), cluster.issue(Kind.NODE)

    def believes(ca: str) -> bool:
        try:
            shake_hands(red, node, ca)
        except ssl.SSLError:
            return False
        return True

    assert not believes(ca_pem(cluster))
    assert believes(cluster.root.certificate.public_bytes(Encoding.PEM).decode())
