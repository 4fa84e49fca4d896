"""Certificates of services: for whom, with which names, and what is recorded before they leave."""

import asyncio
import ssl
from collections.abc import Sequence
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from cluster.control.service_certificates import PER_LIFE, ServiceCertificates
from cluster.control.service_draft import ReferenceDraft
from cluster.engine.seam import Compare, Engine, Operation, Outcome
from cluster.pki import csr
from cluster.protocol.errors import (
    ClusterError,
    InvalidReference,
    InvalidRequest,
    NoQuorum,
    PermissionDenied,
    TooManyRequests,
)
from cluster.protocol.ids import NodeId, ServiceId
from cluster.protocol.wire import ServiceCertificate
from cluster.store.audit_chain import read_chain
from cluster.store.records import AuditEntry, audit_stream
from tests.support.stores import StoreLab
from tests.unit.control.lab import ADMIN, TRUST_DOMAIN, ControlLab, drafted
from tests.unit.dispatcher.lab import WatchedEngine


def certificates(lab: ControlLab) -> ServiceCertificates:
    return ServiceCertificates(lab.requests, lab.issuer)


async def placed(lab: ControlLab, name: str = "red", **fields: object) -> tuple[NodeId, ServiceId]:
    """Place a service that wants a certificate on a node of its own."""
    node_id = await lab.join(f"node-of-{name}")
    options = {"certificate": True, "constraints": (f"node.name==node-of-{name}",), **fields}
    stored = await lab.service(name, **options)
    await lab.settle(lab.duty())
    assert lab.placed(name) == {f"node-of-{name}"}
    return node_id, ServiceId(stored.record.id)


async def audit(lab: ControlLab) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    for stored in lab.view.audit_streams.values():
        record = stored.record
        stream = audit_stream(record.manager_id, record.boot, record.lane)
        async for link in read_chain(lab.store.engine, lab.store.keyring, stream):
            entries.extend(link.entries)
    return [entry for entry in entries if entry.action == "service.certificate"]


def leaf_of(certificate: ServiceCertificate) -> x509.Certificate:
    return x509.load_der_x509_certificate(certificate.chain[0])


async def test_certificate_names_the_service_and_nothing_the_request_asks_for(
    lab: ControlLab,
) -> None:
    node_id, service_id = await placed(lab)
    key = csr.new_key()
    wish = x509.SubjectAlternativeName([x509.DNSName("manager.example"), x509.DNSName("*")])
    asked = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(wish, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate = await certificates(lab).issue(
        node_id, service_id, asked.public_bytes(Encoding.DER)
    )
    leaf = leaf_of(certificate)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        f"spiffe://{TRUST_DOMAIN}/service/red"
    ]
    assert names.get_values_for_type(x509.DNSName) == ["red", f"red.{TRUST_DOMAIN}"]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert leaf.public_key() == key.public_key()
    assert certificate.life_s == 3_600.0
    assert (leaf.not_valid_after_utc - lab.clock.now()).total_seconds() == 3_600.0


async def test_chain_ends_at_the_anchor_that_services_are_given(lab: ControlLab) -> None:
    node_id, service_id = await placed(lab)
    certificate = await certificates(lab).issue(node_id, service_id, csr.make_csr(csr.new_key()))
    (anchor,) = map(x509.load_der_x509_certificate, certificate.anchors)
    leaf_of(certificate).verify_directly_issued_by(anchor)
    anchor.verify_directly_issued_by(anchor)
    intermediate = x509.load_der_x509_certificate(certificate.chain[1])
    assert (intermediate.subject, intermediate.public_key()) == (
        anchor.subject,
        anchor.public_key(),
    )
    ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(certificate.anchors[0]))


async def test_serial_is_on_record_with_the_node(lab: ControlLab, second: ControlLab) -> None:
    """Another manager reads it: it was committed when the certificate was handed out."""
    node_id, service_id = await placed(lab)
    certificate = await certificates(lab).issue(node_id, service_id, csr.make_csr(csr.new_key()))
    await second.store.barrier()
    (entry,) = await audit(second)
    assert entry.allowed
    assert entry.caller == f"spiffe://{TRUST_DOMAIN}/node/{node_id}"
    assert entry.resource == "service/red"
    assert f"serial {leaf_of(certificate).serial_number:x} " in entry.detail


@pytest.mark.threat("T-30")
async def test_not_placed_here_not_there_and_no_certificate_read_the_same(lab: ControlLab) -> None:
    node_id, service_id = await placed(lab)
    other_node, other_id = await placed(lab, "blue", uid=1001)
    _, plain_id = await placed(lab, "plain", uid=1002, certificate=False)
    plain_node = next(stored.record.node_id for stored in lab.view.tasks_of_service(plain_id))
    issuer = certificates(lab)
    request = csr.make_csr(csr.new_key())
    answers = set()
    asked = [
        (node_id, other_id), (other_node, service_id), (plain_node, plain_id),
        (node_id, ServiceId("no-such-service")), (NodeId("no-such-node"), service_id),
    ]  # fmt: skip
    for one, service in asked:
        with pytest.raises(PermissionDenied) as refused:
            await issuer.issue(one, service, request)
        answers.add(refused.value.message)
    assert len(answers) == 1
    assert (await issuer.issue(node_id, service_id, request)).service_id == service_id
    assert len(await audit(lab)) == 1


@pytest.mark.control("T-30", without="cluster/control/service_certificates.py::ServiceCertificates")
async def test_node_has_anybodys_certificate_where_placement_is_not_looked_at(
    lab: ControlLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    thief, _ = await placed(lab)
    _, victim = await placed(lab, "blue", uid=1001)
    request = csr.make_csr(csr.new_key())
    with pytest.raises(PermissionDenied):
        await certificates(lab).issue(thief, victim, request)
    stored = lab.view.services.get(victim)
    assert stored is not None
    monkeypatch.setattr(
        "cluster.control.service_certificates._decided_from", lambda *_: (stored.record, ())
    )
    assert (await certificates(lab).issue(thief, victim, request)).service_id == victim


@pytest.mark.threat("T-30")
@pytest.mark.parametrize("what", ["node", "service", "certificate"])
async def test_removal_ends_issuing(lab: ControlLab, what: str) -> None:
    node_id, service_id = await placed(lab)
    issuer, request = certificates(lab), csr.make_csr(csr.new_key())
    await issuer.issue(node_id, service_id, request)
    await remove(lab, what)
    with pytest.raises(PermissionDenied):
        await issuer.issue(node_id, service_id, request)


@pytest.mark.threat("T-30")
@pytest.mark.parametrize("what", ["node", "service", "certificate"])
async def test_lagging_manager_issues_nothing_after_a_removal(
    lab: ControlLab, stores: StoreLab, what: str
) -> None:
    node_id, service_id = await placed(lab)
    engine = WatchedEngine(stores.engine)
    store = await stores.open("m2", "b2", engine=cast("Engine", engine))
    behind = ControlLab(stores, store)
    await store.barrier()
    engine.flowing.clear()
    await remove(lab, what)
    assert behind.view.services.get(service_id) is not None, "its view shows nothing of it"
    issuing = asyncio.create_task(
        certificates(behind).issue(node_id, service_id, csr.make_csr(csr.new_key()))
    )
    await asyncio.sleep(0.1)
    assert not issuing.done()
    engine.flowing.set()
    with pytest.raises(PermissionDenied):
        await issuing
    assert await audit(lab) == []


@pytest.mark.threat("T-30")
async def test_manager_without_a_quorum_issues_nothing(lab: ControlLab, stores: StoreLab) -> None:
    node_id, service_id = await placed(lab)

    store = await stores.open("m2", "b2", engine=cast("Engine", CutOff(stores.engine)))
    alone = ControlLab(stores, store)
    with pytest.raises(ClusterError) as refused:
        await certificates(alone).issue(node_id, service_id, csr.make_csr(csr.new_key()))
    assert refused.value.retryable


async def test_bad_request_is_refused_before_anything_is_recorded(lab: ControlLab) -> None:
    node_id, service_id = await placed(lab)
    with pytest.raises(InvalidRequest):
        await certificates(lab).issue(node_id, service_id, b"no request")
    assert await audit(lab) == []


async def test_task_that_asks_without_end_is_slowed_down(lab: ControlLab) -> None:
    node_id, service_id = await placed(lab)
    issuer, request = certificates(lab), csr.make_csr(csr.new_key())
    for _ in range(PER_LIFE):
        await issuer.issue(node_id, service_id, request)
    with pytest.raises(TooManyRequests):
        await issuer.issue(node_id, service_id, request)
    lab.clock.advance(3_600.0)
    await issuer.issue(node_id, service_id, request)
    assert len(await audit(lab)) == PER_LIFE + 1


async def remove(lab: ControlLab, what: str) -> None:
    """Take away one of the things a certificate is issued for."""
    if what == "node":
        await lab.nodes.remove(lab.context(), "node-of-red")
    elif what == "service":
        await lab.services.remove(lab.context(), "red")
    else:
        await lab.services.update(lab.context(), "red", drafted("red", certificate=False))


@pytest.mark.parametrize("target", ["tls.crt", "tls.key", "ca.crt"])
async def test_targets_of_the_certificate_are_reserved(lab: ControlLab, target: str) -> None:
    await lab.secret("db")
    references = (ReferenceDraft("db", target=target),)
    with pytest.raises(InvalidReference, match=target):
        await lab.service("red", references=references, certificate=True)
    await lab.service("red", references=references)


async def test_spec_shows_the_certificate(lab: ControlLab) -> None:
    await lab.service("red", certificate=True)
    shown = lab.services.inspect(ADMIN, "red")["spec"]
    assert isinstance(shown, dict)
    assert shown["certificate"] is True


async def test_what_could_not_be_recorded_does_not_count(lab: ControlLab, stores: StoreLab) -> None:
    """A quorum that is away for a while must not cost services their next certificate."""
    node_id, service_id = await placed(lab)
    engine = CutOff(stores.engine)
    store = await stores.open("m2", "b2", engine=cast("Engine", engine))
    issuer, request = certificates(ControlLab(stores, store)), csr.make_csr(csr.new_key())
    for _ in range(PER_LIFE + 1):
        with pytest.raises(ClusterError) as refused:
            await issuer.issue(node_id, service_id, request)
        assert not isinstance(refused.value, TooManyRequests)
    engine.is_cut_off = False
    await issuer.issue(node_id, service_id, request)


class CutOff(WatchedEngine):
    """An engine that commits nothing while it is cut off."""

    is_cut_off = True

    async def transact(
        self, request_id: bytes, compares: Sequence[Compare], operations: Sequence[Operation]
    ) -> Outcome:
        """Pass on, or not."""
        if self.is_cut_off:
            raise NoQuorum
        return await self._engine.transact(request_id, compares, operations)
