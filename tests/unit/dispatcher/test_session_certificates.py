"""Certificates of services over a session: an answer, or a refusal that does not end it."""

import pytest

from cluster.pki.csr import make_csr, new_key
from cluster.protocol import wire
from cluster.store.records import ServiceRecord
from tests.unit.dispatcher.lab import DispatchLab


async def wanting(lab: DispatchLab, name: str) -> ServiceRecord:
    """Place a service that wants a certificate on its node, which has joined."""
    constraints = (f"node.name==node-of-{name}",)
    stored = await lab.service(name, certificate=True, constraints=constraints, uid=1001)
    await lab.settle(lab.duty())
    return stored.record


async def test_manifest_says_that_a_certificate_belongs_to_the_set(lab: DispatchLab) -> None:
    node_id = await lab.join("node-of-red")
    red = await wanting(lab, "red")
    async with lab.talk(node_id) as talk:
        snapshot = await talk.link.next(wire.Snapshot)
        assert [(one.service_id, one.certificate) for one in snapshot.services] == [(red.id, True)]
        talk.link.say(wire.ServiceSigningRequest(red.id, make_csr(new_key())))
        answer = await talk.link.next(wire.ServiceCertificate)
        assert answer.service_id == red.id
        assert len(answer.chain) == 2


@pytest.mark.threat("T-30")
async def test_refusal_does_not_end_the_session(lab: DispatchLab) -> None:
    node_id = await lab.running()
    await lab.join("node-of-blue")
    blue = await wanting(lab, "blue")
    async with lab.talk(node_id) as talk:
        for service_id in (blue.id, "no-such-service"):
            talk.link.say(wire.ServiceSigningRequest(service_id, make_csr(new_key())))
            refused = await talk.link.next(wire.ServiceCertificateRefused)
            assert (refused.service_id, refused.code) == (service_id, "permission_denied")
        await talk.heard()
