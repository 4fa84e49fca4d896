"""When a service's certificate is asked for, and what is believed of the answer."""

from collections.abc import Callable
from datetime import timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.assignments import Publish, plan
from agent.certificates import ANSWER_LIMIT_S, FAULT_AFTER, CertificateFiles, Certificates
from cluster.pki.ca import Authority, issue_leaf, trust_anchor
from cluster.pki.csr import check_csr, key_from_pem
from cluster.protocol import wire
from cluster.protocol.errors import MalformedMessage, PermissionDenied
from cluster.protocol.identity import Kind, SpiffeId
from tests.support.authority import TRUST_DOMAIN, ClusterAuthority

RED = wire.ServiceAssignment("id-red", "red", 1000, 1000, 1, (), certificate=True)
PLAIN = wire.ServiceAssignment("id-plain", "plain", 1001, 1001, 1, ())
LIFE_S = 100.0


@pytest.fixture(scope="module")
def cluster() -> ClusterAuthority:
    return ClusterAuthority()


def schedule(draw: float = 0.5) -> Certificates:
    made = Certificates(TRUST_DOMAIN, lambda: draw)
    made.follow([RED, PLAIN], 0.0)
    return made


def answer(
    cluster: ClusterAuthority,
    asked: wire.ServiceSigningRequest,
    *,
    name: str = "red",
    authority: Callable[[ClusterAuthority], Authority] = lambda cluster: cluster.workload,
) -> wire.ServiceCertificate:
    signer = authority(cluster)
    leaf = issue_leaf(
        signer,
        check_csr(asked.csr),
        SpiffeId(TRUST_DOMAIN, Kind.SERVICE, name),
        timedelta(seconds=LIFE_S),
        cluster.clock,
        cluster.entropy,
    )
    chain = tuple(one.public_bytes(Encoding.DER) for one in (leaf, signer.certificate))
    anchor = trust_anchor(cluster.workload, cluster.entropy).public_bytes(Encoding.DER)
    return wire.ServiceCertificate(asked.service_id, chain, (anchor,), LIFE_S)


def accepted(
    certificates: Certificates, cluster: ClusterAuthority, now_s: float
) -> CertificateFiles:
    (asked,) = certificates.due(now_s)
    files = certificates.accept(answer(cluster, asked), now_s)
    assert files is not None
    return files


def test_only_a_service_that_wants_one_is_asked_for_and_at_once() -> None:
    (asked,) = schedule().due(0.0)
    assert asked.service_id == RED.service_id


def test_set_holds_the_chain_its_key_and_the_anchor(cluster: ClusterAuthority) -> None:
    files = accepted(schedule(), cluster, 0.0)
    chain = x509.load_pem_x509_certificates(files["tls.crt"].reveal())
    key = key_from_pem(files["tls.key"].reveal())
    (anchor,) = x509.load_pem_x509_certificates(files["ca.crt"].reveal())
    assert len(chain) == 2
    assert chain[0].public_key() == key.public_key()
    chain[0].verify_directly_issued_by(anchor)


@pytest.mark.parametrize(("draw", "share"), [(0.0, 0.5), (0.5, 0.65), (1.0, 0.8)])
def test_renewal_is_drawn_between_50_and_80_percent(
    cluster: ClusterAuthority, draw: float, share: float
) -> None:
    certificates = schedule(draw)
    accepted(certificates, cluster, 10.0)
    due_s = 10.0 + share * LIFE_S
    assert certificates.due(due_s - 0.01) == []
    assert len(certificates.due(due_s)) == 1


def test_each_renewal_is_for_a_new_key(cluster: ClusterAuthority) -> None:
    certificates = schedule()
    first = accepted(certificates, cluster, 0.0)["tls.key"]
    second = accepted(certificates, cluster, LIFE_S)["tls.key"]
    assert first != second


def test_unanswered_request_is_sent_again_with_the_same_key() -> None:
    certificates = schedule()
    (first,) = certificates.due(0.0)
    assert certificates.due(ANSWER_LIMIT_S - 0.01) == []
    (again,) = certificates.due(ANSWER_LIMIT_S)
    assert check_csr(first.csr) == check_csr(again.csr)


def test_refusals_are_asked_again_later_and_later() -> None:
    certificates, now_s, pauses = schedule(), 0.0, []
    for _ in range(12):
        assert len(certificates.due(now_s)) == 1
        certificates.failed(RED.service_id, "permission_denied", now_s)
        before = now_s
        while not (found := certificates.due(now_s)):
            now_s += 0.25
        assert len(found) == 1
        certificates.failed(RED.service_id, "permission_denied", now_s)
        pauses.append(now_s - before)
        now_s += 100.0
    assert pauses == sorted(pauses)
    assert max(pauses) <= 60.0


def test_fault_is_named_only_when_it_lasts(cluster: ClusterAuthority) -> None:
    certificates = schedule()
    for number in range(FAULT_AFTER):
        assert certificates.fault_of(RED.service_id) == ""
        certificates.failed(RED.service_id, "conflict", 100.0 * number)
    assert "conflict" in certificates.fault_of(RED.service_id)
    accepted(certificates, cluster, 1_000.0)
    assert certificates.fault_of(RED.service_id) == ""


def test_answer_nobody_asked_for_is_passed_over(cluster: ClusterAuthority) -> None:
    certificates = schedule()
    (asked,) = certificates.due(0.0)
    given = answer(cluster, asked)
    assert certificates.accept(given, 0.0) is not None
    assert certificates.accept(given, 0.0) is None
    certificates.follow([PLAIN], 1.0)
    assert certificates.due(LIFE_S) == []
    assert certificates.accept(given, LIFE_S) is None


@pytest.mark.threat("T-31")
def test_certificate_of_another_service_is_not_taken(cluster: ClusterAuthority) -> None:
    certificates = schedule()
    (asked,) = certificates.due(0.0)
    with pytest.raises(PermissionDenied):
        certificates.accept(answer(cluster, asked, name="blue"), 0.0)
    assert certificates.accept(answer(cluster, asked), 0.0) is not None


def test_certificate_for_another_key_or_authority_is_not_taken(cluster: ClusterAuthority) -> None:
    certificates = schedule()
    (asked,) = certificates.due(0.0)
    (foreign,) = schedule().due(0.0)
    with pytest.raises(PermissionDenied):
        certificates.accept(answer(cluster, foreign), 0.0)
    with pytest.raises(PermissionDenied):
        certificates.accept(answer(cluster, asked, authority=lambda c: c.control), 0.0)
    with pytest.raises(MalformedMessage):
        certificates.accept(wire.ServiceCertificate(asked.service_id, (), (), LIFE_S), 0.0)


def test_life_of_nothing_does_not_end_in_a_loop(cluster: ClusterAuthority) -> None:
    certificates = schedule()
    (asked,) = certificates.due(0.0)
    given = answer(cluster, asked)
    certificates.accept(
        wire.ServiceCertificate(given.service_id, given.chain, given.anchors, 0.0), 0.0
    )
    assert certificates.due(0.5) == []


def test_certificate_that_comes_or_goes_is_a_change_of_files() -> None:
    """So that the service is told."""
    without = msgspec.structs.replace(RED, certificate=False)
    for new, old in ((RED, without), (without, RED)):
        (action,) = plan([new], {RED.service_id: old}, share_uid=False).actions
        assert action == Publish(new, changed=True)


def test_key_is_not_shown(cluster: ClusterAuthority) -> None:
    certificates = schedule()
    files = accepted(certificates, cluster, 0.0)
    certificates.due(LIFE_S)
    assert "PRIVATE" not in repr(files)
    assert "EllipticCurve" not in repr(certificates._pursuits)
