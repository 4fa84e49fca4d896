"""What each certificate carries."""

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from cluster.pki import csr
from cluster.pki.ca import (
    Authority,
    issue_engine_certificate,
    issue_leaf,
    new_engine_authority,
)
from cluster.protocol.errors import Conflict, IntegrityError, InvalidRequest
from cluster.protocol.identity import Kind, SpiffeId
from tests.support.authority import CLIENT, SERVER, TRUST_DOMAIN, ClusterAuthority
from tests.support.clock import ManualClock
from tests.support.entropy import SeededEntropy


@pytest.fixture
def cluster(clock: ManualClock, entropy: SeededEntropy) -> ClusterAuthority:
    return ClusterAuthority(clock=clock, entropy=entropy)


def path_length(authority: Authority) -> int | None:
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value.ca
    return constraints.value.path_length


def test_only_the_root_stands_above_other_authorities(cluster: ClusterAuthority) -> None:
    assert path_length(cluster.root) == 1
    assert path_length(cluster.control) == path_length(cluster.workload) == 0


def test_authorities_of_one_role_differ_in_name(cluster: ClusterAuthority) -> None:
    second = cluster.new_intermediate_of_control()
    assert second.certificate.subject != cluster.control.certificate.subject


@pytest.mark.parametrize(
    ("kind", "uses"),
    [
        (Kind.MANAGER, {CLIENT, SERVER}),
        (Kind.NODE, {CLIENT}),
        (Kind.OPERATOR, {CLIENT}),
        (Kind.SERVICE, {CLIENT, SERVER}),
    ],
)
def test_uses_follow_from_the_kind(
    cluster: ClusterAuthority, kind: Kind, uses: set[x509.ObjectIdentifier]
) -> None:
    leaf = cluster.issue(kind).certificate
    assert set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == uses


def test_leaf_carries_one_uri_and_an_empty_subject(cluster: ClusterAuthority) -> None:
    leaf = cluster.issue(Kind.NODE, "abc").certificate
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert list(names.value) == [x509.UniformResourceIdentifier("spiffe://lab.test/node/abc")]
    assert leaf.subject == x509.Name([])


def test_leaf_is_backdated_and_ends_after_its_ttl(
    cluster: ClusterAuthority, clock: ManualClock
) -> None:
    leaf = cluster.issue(Kind.NODE, ttl=timedelta(hours=24)).certificate
    assert leaf.not_valid_before_utc == clock.now() - timedelta(minutes=5)
    assert leaf.not_valid_after_utc == clock.now() + timedelta(hours=24)


def test_leaf_never_outlives_its_issuer(cluster: ClusterAuthority, clock: ManualClock) -> None:
    end = cluster.control.certificate.not_valid_after_utc
    clock.jump(end - timedelta(minutes=1))
    assert cluster.issue(Kind.NODE).certificate.not_valid_after_utc == end
    clock.jump(end)
    with pytest.raises(Conflict):
        cluster.issue(Kind.NODE)


def test_intermediate_never_outlives_the_root(
    cluster: ClusterAuthority, clock: ManualClock
) -> None:
    clock.advance(timedelta(days=15 * 365))
    late = cluster.new_intermediate_of_control().certificate
    assert late.not_valid_after_utc == cluster.root.certificate.not_valid_after_utc


def test_serials_are_long_and_differ(cluster: ClusterAuthority) -> None:
    serials = {cluster.issue(Kind.NODE).certificate.serial_number for _ in range(20)}
    assert len(serials) == 20
    assert {serial.bit_length() for serial in serials} == {145}


def leaf_with_hosts(cluster: ClusterAuthority, kind: Kind) -> x509.Certificate:
    return issue_leaf(
        cluster.control,
        csr.new_key().public_key(),
        SpiffeId(TRUST_DOMAIN, kind, "m1"),
        timedelta(hours=1),
        cluster.clock,
        cluster.entropy,
        dns_names=["manager1.lab.test"],
        ip_addresses=[ipaddress.ip_address("10.0.0.1")],
    )


def test_manager_carries_its_hosts(cluster: ClusterAuthority) -> None:
    leaf = leaf_with_hosts(cluster, Kind.MANAGER)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["manager1.lab.test"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.0.0.1")]


@pytest.mark.parametrize("kind", [Kind.NODE, Kind.OPERATOR])
def test_clients_carry_no_hosts(cluster: ClusterAuthority, kind: Kind) -> None:
    with pytest.raises(InvalidRequest):
        leaf_with_hosts(cluster, kind)


def test_time_to_live_is_positive(cluster: ClusterAuthority) -> None:
    with pytest.raises(InvalidRequest):
        cluster.issue(Kind.NODE, ttl=timedelta(0))


def test_authority_survives_storage(cluster: ClusterAuthority) -> None:
    certificate, key = cluster.control.to_der()
    restored = Authority.from_der(certificate, key)
    restored_leaf = cluster.issue(Kind.NODE, authority=restored).certificate
    restored_leaf.verify_directly_issued_by(cluster.control.certificate)


def test_authority_with_anothers_key_is_refused(cluster: ClusterAuthority) -> None:
    with pytest.raises(IntegrityError):
        Authority.from_der(cluster.control.to_der()[0], cluster.workload.to_der()[1])
    with pytest.raises(IntegrityError):
        Authority.from_der(b"\x30\x00", cluster.workload.to_der()[1])


def test_repr_shows_no_key(cluster: ClusterAuthority) -> None:
    assert "key" not in repr(cluster.control)


def test_engine_trust_is_separate_and_does_not_expire(
    cluster: ClusterAuthority, clock: ManualClock, entropy: SeededEntropy
) -> None:
    """A cluster that was off for years must not find its engine's certificates expired."""
    authority = new_engine_authority(clock, entropy)
    chain_pem, key_pem = issue_engine_certificate(authority, "m1", ["10.0.0.1", "manager1"])
    leaf = x509.load_pem_x509_certificate(chain_pem)
    leaf.verify_directly_issued_by(authority.certificate)
    with pytest.raises(ValueError):
        leaf.verify_directly_issued_by(cluster.root.certificate)
    assert csr.key_from_pem(key_pem).public_key() == leaf.public_key()
    assert leaf.not_valid_before_utc == clock.now() - timedelta(days=1)
    assert leaf.not_valid_after_utc == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    (name,) = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == "strongroom-manager"
    hosts = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert hosts.get_values_for_type(x509.DNSName) == ["manager1", "localhost"]
    assert ipaddress.ip_address("10.0.0.1") in hosts.get_values_for_type(x509.IPAddress)
