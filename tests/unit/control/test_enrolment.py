"""Joining, renewing and coming back."""

from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from cluster.control.policy import Role
from cluster.pki import csr
from cluster.pki.join_token import JoinToken
from cluster.pki.trust_bundle import TrustBundle
from cluster.protocol.errors import (
    AlreadyExists,
    ClusterError,
    Evicted,
    InvalidRequest,
    MalformedJoinToken,
    PermissionDenied,
    TokenRefused,
    Unauthenticated,
)
from cluster.protocol.identity import Kind
from cluster.protocol.ids import NodeId, is_id
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import OperatorRole, TokenRole
from tests.unit.control.lab import ADMIN, AUDITOR, ControlLab, operator

HERE = "127.0.0.1"


def _serial(chain: object) -> str:
    import base64

    assert isinstance(chain, (list, tuple))
    first = chain[0]
    der = base64.b64decode(first) if isinstance(first, str) else first
    return format(x509.load_der_x509_certificate(der).serial_number, "x")


def _leaf(chain: object) -> bytes:
    import base64

    assert isinstance(chain, (list, tuple))
    return base64.b64decode(chain[0])


async def test_joined_node_is_who_its_certificate_says(lab: ControlLab) -> None:
    token = await lab.token()
    reply = await lab.enrolment.join_node(token, csr.make_csr(csr.new_key()), "n1", HERE)
    node_id, serial = str(reply["node_id"]), _serial(reply["certificate_chain"])
    principal = lab.principal(Kind.NODE, node_id, serial)
    assert principal.role is Role.NODE
    TrustBundle.from_dict(reply["bundle"]).verify(token.root_digest)
    assert reply["managers"] == ["127.0.0.1:7443"]
    assert reply["join_addresses"] == ["127.0.0.1:7444"]
    with pytest.raises(Unauthenticated):
        lab.principal(Kind.NODE, node_id, "abc")
    with pytest.raises(Unauthenticated):
        lab.principal(Kind.MANAGER, node_id, serial)


async def test_repeated_join_gets_the_same_reply_and_spends_once(lab: ControlLab) -> None:
    token = await lab.token(uses=2)
    request = csr.make_csr(csr.new_key())
    first = await lab.enrolment.join_node(token, request, "n1", HERE)
    again = await lab.enrolment.join_node(token, request, "n1", HERE)
    assert again == first
    stored = lab.view.join_tokens.get(token.token_id)
    assert stored is not None
    assert stored.record.uses_left == 1


@pytest.mark.threat("T-11")
async def test_token_admits_as_often_as_it_says(lab: ControlLab) -> None:
    token = await lab.token()
    await lab.enrolment.join_node(token, csr.make_csr(csr.new_key()), "n1", HERE)
    with pytest.raises(TokenRefused):
        await lab.enrolment.join_node(token, csr.make_csr(csr.new_key()), "n2", HERE)


@pytest.mark.threat("T-11")
async def test_two_managers_do_not_spend_one_use_twice(lab: ControlLab, second: ControlLab) -> None:
    import asyncio

    token = await lab.token()
    await second.view.wait_for(lab.view.revision, 5)
    results = await asyncio.gather(
        lab.enrolment.join_node(token, csr.make_csr(csr.new_key()), "n1", HERE),
        second.enrolment.join_node(token, csr.make_csr(csr.new_key()), "n2", HERE),
        return_exceptions=True,
    )
    assert sorted(isinstance(result, TokenRefused) for result in results) == [False, True]


@pytest.mark.threat("T-11")
async def test_every_fault_of_a_token_reads_the_same(lab: ControlLab) -> None:
    good = await lab.token()
    wrong_secret = JoinToken(good.root_digest, good.token_id, SecretBytes(bytes(32)))
    wrong_root = JoinToken("00" * 32, good.token_id, good.secret)
    expired = await lab.token(ttl=timedelta(seconds=1))
    elsewhere = await lab.token(networks=["10.0.0.0/8"])
    named = await lab.token(name="other")
    manager = await lab.token(TokenRole.MANAGER)
    removed = await lab.token()
    await lab.tokens.remove(lab.context(), removed.token_id)
    lab.clock.advance(2)
    messages = set()
    for token in (wrong_secret, wrong_root, expired, elsewhere, named, manager, removed):
        with pytest.raises(TokenRefused) as refused:
            await lab.enrolment.join_node(token, csr.make_csr(csr.new_key()), "n1", HERE)
        messages.add(refused.value.message)
    assert len(messages) == 1
    await lab.enrolment.join_node(good, csr.make_csr(csr.new_key()), "n1", HERE)


PATHS = ("../../manager/m1", "n1/../admin", "/spire/agent", "%2e%2e%2fm1", "..")


@pytest.mark.threat("T-11")
@pytest.mark.parametrize("path", PATHS)
async def test_token_or_name_with_a_path_in_it_names_nobody(lab: ControlLab, path: str) -> None:
    """An identity is drawn: neither a token's text nor a chosen name is a part of it."""
    token = await lab.token()
    prefix, digest_and_more = token.format()[:8], token.format()[8:].split("-")
    for position in range(3):
        for spelt in (path, path.ljust(len(digest_and_more[position]), "a")):
            parts = [*digest_and_more[:position], spelt, *digest_and_more[position + 1 :]]
            with pytest.raises(MalformedJoinToken):
                JoinToken.parse(prefix + "-".join(parts))
    request = csr.make_csr(csr.new_key())
    with pytest.raises(InvalidRequest):
        await lab.enrolment.join_node(token, request, path, HERE)
    reply = await lab.enrolment.join_node(token, request, "n1", HERE)
    assert is_id(str(reply["node_id"]))
    assert token.token_id != reply["node_id"]


async def test_taken_node_name_is_told_and_the_token_not_spent(lab: ControlLab) -> None:
    await lab.join("n1")
    token = await lab.token()
    with pytest.raises(AlreadyExists):
        await lab.enrolment.join_node(token, csr.make_csr(csr.new_key()), "N1", HERE)
    await lab.enrolment.join_node(token, csr.make_csr(csr.new_key()), "n2", HERE)


async def test_token_text_is_shown_once(lab: ControlLab) -> None:
    context = lab.context()
    first = await lab.tokens.create(context, TokenRole.WORKER, timedelta(hours=1))
    again = await lab.tokens.create(context, TokenRole.WORKER, timedelta(hours=1))
    secret = str(first.body["token"]).rpartition("-")[2]
    assert again.body == {**first.body, "token": None}
    assert secret not in repr(lab.tokens.list(AUDITOR))
    assert all(secret.encode() not in r.record.answer for r in lab.view.requests.values())


async def test_token_limits_hold(lab: ControlLab) -> None:
    for role, ttl, uses in (
        (TokenRole.MANAGER, timedelta(hours=2), 1),
        (TokenRole.MANAGER, timedelta(hours=1), 2),
        (TokenRole.OPERATOR, timedelta(hours=1), 1),
        (TokenRole.WORKER, timedelta(0), 1),
    ):
        with pytest.raises(InvalidRequest):
            await lab.tokens.create(lab.context(), role, ttl, uses=uses)


@pytest.mark.threat("T-12")
async def test_renewal_leaves_the_newest_two_serials(lab: ControlLab) -> None:
    node_id = await lab.join("n1")
    stored = lab.view.nodes.get(node_id)
    assert stored is not None
    (first,) = stored.record.serials
    second = _serial((await lab.enrolment.renew_node(node_id, csr.make_csr(csr.new_key()))).chain)
    third = _serial((await lab.enrolment.renew_node(node_id, csr.make_csr(csr.new_key()))).chain)
    for serial in (second, third):
        lab.principal(Kind.NODE, node_id, serial)
    with pytest.raises(Unauthenticated):
        lab.principal(Kind.NODE, node_id, first)


async def test_renewal_repeated_under_one_key_keeps_the_certificate_in_use(
    lab: ControlLab,
) -> None:
    """The reply was lost: the agent still speaks by its old certificate."""
    node_id = await lab.join("n1")
    stored = lab.view.nodes.get(node_id)
    assert stored is not None
    (in_use,) = stored.record.serials
    request = csr.make_csr(csr.new_key())
    for _ in range(4):
        newest = _serial((await lab.enrolment.renew_node(node_id, request)).chain)
    lab.principal(Kind.NODE, node_id, in_use)
    lab.principal(Kind.NODE, node_id, newest)


async def test_removed_node_is_told_so_and_never_renewed(lab: ControlLab) -> None:
    node_id = await lab.join("n1")
    stored = lab.view.nodes.get(node_id)
    assert stored is not None
    await lab.nodes.remove(lab.context(), "n1")
    with pytest.raises(Evicted):
        lab.principal(Kind.NODE, node_id, stored.record.serials[0])
    with pytest.raises(Evicted):
        await lab.enrolment.renew_node(node_id, csr.make_csr(csr.new_key()))
    await lab.join("n1")


class _Away:
    """A node that went away, with what it still has."""

    def __init__(self, lab: ControlLab) -> None:
        self.lab = lab
        self.key = csr.new_key()
        self.certificate = b""
        self.node_id = NodeId("")

    async def join(self) -> None:
        token = await self.lab.token()
        reply = await self.lab.enrolment.join_node(token, csr.make_csr(self.key), "n1", HERE)
        self.certificate = _leaf(reply["certificate_chain"])
        self.node_id = NodeId(str(reply["node_id"]))

    async def come_back(self) -> object:
        request = csr.make_csr(csr.new_key())
        signature = csr.sign_return_request(self.key, request)
        return await self.lab.enrolment.return_node(self.certificate, request, signature, HERE)


async def test_expired_node_comes_back_within_its_grace(lab: ControlLab) -> None:
    away = _Away(lab)
    await away.join()
    lab.clock.advance(timedelta(days=1 + 6))
    reply = await away.come_back()
    assert isinstance(reply, dict)
    assert reply["node_id"] == away.node_id
    lab.principal(Kind.NODE, away.node_id, _serial(reply["certificate_chain"]))


@pytest.mark.threat("T-28")
async def test_grace_ends_unless_an_outage_explains_it(lab: ControlLab) -> None:
    away = _Away(lab)
    await away.join()
    duty = lab.duty()
    await lab.settle(duty)
    lab.clock.advance(timedelta(days=21))
    with pytest.raises(PermissionDenied):
        await away.come_back()
    # The cluster was off for as long: the next holder of the duty records it.
    await lab.settle(lab.duty())
    await away.come_back()


@pytest.mark.threat("T-28")
async def test_return_needs_the_old_key_and_a_serial_on_record(lab: ControlLab) -> None:
    away = _Away(lab)
    await away.join()
    request = csr.make_csr(csr.new_key())
    forged = csr.sign_return_request(csr.new_key(), request)
    with pytest.raises(PermissionDenied):
        await lab.enrolment.return_node(away.certificate, request, forged, HERE)
    for _ in range(2):
        await lab.enrolment.renew_node(away.node_id, csr.make_csr(csr.new_key()))
    with pytest.raises(PermissionDenied):
        await away.come_back()


@pytest.mark.control("T-28", without="cluster/pki/csr.py::verify_return_request")
async def test_old_certificate_alone_brings_nobody_back(
    lab: ControlLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Certificates are no secret: without the old key's signature looked at, one is enough."""
    away = _Away(lab)
    await away.join()
    request = csr.make_csr(csr.new_key())
    forged = csr.sign_return_request(csr.new_key(), request)
    with pytest.raises(PermissionDenied):
        await lab.enrolment.return_node(away.certificate, request, forged, HERE)
    monkeypatch.setattr("cluster.control.enrolment.verify_return_request", lambda *_: None)
    assert await lab.enrolment.return_node(away.certificate, request, forged, HERE)


@pytest.mark.threat("T-28")
async def test_return_by_a_forged_certificate_is_refused(lab: ControlLab) -> None:
    """Name, key and serial are right, and it ends later: whoever has the old key can write that."""
    away = _Away(lab)
    await away.join()
    lab.clock.advance(timedelta(days=9))
    away.certificate = _resigned(away, lab.clock.now() - timedelta(days=1))
    with pytest.raises(PermissionDenied):
        await away.come_back()


def _resigned(away: _Away, not_after: datetime) -> bytes:
    old = x509.load_der_x509_certificate(away.certificate)
    names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    forged = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(away.key.public_key())
        .serial_number(old.serial_number)
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(not_after)
        .add_extension(names.value, critical=True)
        .sign(away.key, hashes.SHA256())
    )
    return forged.public_bytes(serialization.Encoding.DER)


@pytest.mark.threat("T-28")
async def test_evicted_node_does_not_come_back(lab: ControlLab) -> None:
    away = _Away(lab)
    await away.join()
    await lab.nodes.remove(lab.context(), "n1")
    with pytest.raises(Evicted):
        await away.come_back()


@pytest.mark.threat("T-27")
async def test_operator_enrols_once_and_renews(lab: ControlLab) -> None:
    answer = await lab.operators.add(lab.context(), "eve", OperatorRole.DEPLOYER, {"team": "red"})
    token = JoinToken.parse(str(answer.body["token"]))
    request = csr.make_csr(csr.new_key())
    reply = await lab.operators.enrol(token, request, HERE)
    assert await lab.operators.enrol(token, request, HERE) == reply
    with pytest.raises(TokenRefused):
        await lab.operators.enrol(token, csr.make_csr(csr.new_key()), HERE)
    principal = lab.principal(Kind.OPERATOR, "eve", _serial(reply["certificate_chain"]))
    assert (principal.role, principal.labels) == (Role.DEPLOYER, {"team": "red"})
    renewed = await lab.operators.renew(principal, csr.make_csr(csr.new_key()))
    lab.principal(Kind.OPERATOR, "eve", _serial(renewed["certificate_chain"]))
    await lab.operators.renew_as_root("eve", csr.make_csr(csr.new_key()))
    await lab.operators.remove(lab.context(), "eve")
    with pytest.raises(Unauthenticated):
        lab.principal(Kind.OPERATOR, "eve", _serial(renewed["certificate_chain"]))
    await lab.operators.add(lab.context(), "eve", OperatorRole.ADMIN, {})
    with pytest.raises(Unauthenticated):
        lab.principal(Kind.OPERATOR, "eve", _serial(renewed["certificate_chain"]))


@pytest.mark.threat("T-27")
async def test_token_of_a_removed_operator_is_worth_nothing(lab: ControlLab) -> None:
    answer = await lab.operators.add(lab.context(), "eve", OperatorRole.AUDITOR, {})
    await lab.operators.remove(lab.context(), "eve")
    await lab.operators.add(lab.context(), "eve", OperatorRole.ADMIN, {})
    with pytest.raises(TokenRefused):
        await lab.operators.enrol(
            JoinToken.parse(str(answer.body["token"])), csr.make_csr(csr.new_key()), HERE
        )


async def test_deployer_without_scope_is_refused(lab: ControlLab) -> None:
    with pytest.raises(InvalidRequest):
        await lab.operators.add(lab.context(), "eve", OperatorRole.DEPLOYER, {})


async def test_only_admins_make_tokens_and_operators(lab: ControlLab) -> None:
    for principal in (AUDITOR, operator("dan", Role.DEPLOYER, team="red")):
        context = lab.context(principal)
        with pytest.raises(PermissionDenied):
            await lab.tokens.create(context, TokenRole.WORKER, timedelta(hours=1))
        with pytest.raises(PermissionDenied):
            await lab.operators.add(context, "eve", OperatorRole.ADMIN, {})
    await lab.tokens.create(lab.context(ADMIN), TokenRole.WORKER, timedelta(hours=1))


@pytest.mark.threat("T-12")
async def test_certificate_of_another_cluster_is_nobody(lab: ControlLab) -> None:
    from cluster.control.callers import principal_of
    from cluster.protocol.identity import Caller, SpiffeId

    node_id = await lab.join("n1")
    stored = lab.view.nodes.get(node_id)
    assert stored is not None
    serial = int(stored.record.serials[0], 16)
    for domain, expected in (("lab.example", None), ("other.example", Unauthenticated)):
        caller = Caller(SpiffeId(domain, Kind.NODE, node_id), serial, "f", 0.0)
        met: type[ClusterError] | None = None
        try:
            principal_of(caller, lab.view)
        except ClusterError as error:
            met = type(error)
        assert met is expected
