"""Attacks on the handshake, over real sockets, each beside a control without the one mechanism.

`lenient_*` contexts are made here by hand: production has no switch that weakens a context.
"""

import contextlib
import json
import socket
import ssl
from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cluster.api.peer import ConnectionRegistry
from cluster.pki import tls
from cluster.pki.ca import Authority
from cluster.pki.csr import key_from_pem
from cluster.pki.trust_bundle import TrustBundle
from cluster.protocol.errors import PermissionDenied, Unauthenticated, Unavailable
from cluster.protocol.https_client import Response, request
from cluster.protocol.identity import Kind
from cluster.system import SystemClock
from tests.support.authority import (
    CLIENT,
    SERVER,
    TRUST_DOMAIN,
    ClusterAuthority,
    Credential,
)
from tests.support.clock import ManualClock
from tests.support.serving import Receive, Scope, Send, Serving, serving

NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME, which Python does not name."""

Weaken = Callable[[ssl.SSLContext], object]


async def ok(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module")
def cluster() -> ClusterAuthority:
    return ClusterAuthority()


@pytest.fixture(scope="module")
def manager(cluster: ClusterAuthority) -> Credential:
    return cluster.issue(Kind.MANAGER, "m1")


def proper(cluster: ClusterAuthority, manager: Credential) -> ssl.SSLContext:
    return tls.server_context(manager.chain_pem, manager.key_pem, cluster.control_der)


def weakened(cluster: ClusterAuthority, manager: Credential, weaken: Weaken) -> ssl.SSLContext:
    context = proper(cluster, manager)
    weaken(context)
    return context


def call(cluster: ClusterAuthority, server: Serving, who: Credential | None) -> Response:
    chain, key = (who.chain_pem, who.key_pem) if who is not None else (None, None)
    context = tls.client_context(cluster.control_der, chain, key)
    return request([server.endpoint], "GET", "/", context=context, trust_domain=TRUST_DOMAIN)


def assert_refused(cluster: ClusterAuthority, server: Serving, who: Credential | None) -> None:
    with pytest.raises(Unauthenticated):
        call(cluster, server, who)
    assert call(cluster, server, cluster.issue(Kind.NODE)).status == 200


def trust_root(cluster: ClusterAuthority) -> Weaken:
    return lambda context: context.load_verify_locations(cadata=cluster.root_der)


# --- who may connect to 7443 ---------------------------------------------------------------------


@pytest.mark.threat("T-07")
@pytest.mark.control("T-07", without="cluster/pki/tls.py::server_context")
def test_service_certificate_opens_nothing(cluster: ClusterAuthority, manager: Credential) -> None:
    """What a service holds must not reach the managers' API."""
    service = cluster.issue(Kind.SERVICE, "red")
    with serving(ok, proper(cluster, manager)) as server:
        assert_refused(cluster, server, service)
    with serving(ok, weakened(cluster, manager, trust_root(cluster))) as server:
        assert call(cluster, server, service).status == 200


@pytest.mark.threat("T-12")
def test_certificate_straight_from_the_root_opens_nothing(
    cluster: ClusterAuthority, manager: Credential
) -> None:
    stray = cluster.issue(Kind.OPERATOR, "eve", authority=cluster.root)
    with serving(ok, proper(cluster, manager)) as server:
        assert_refused(cluster, server, stray)
    with serving(ok, weakened(cluster, manager, trust_root(cluster))) as server:
        assert call(cluster, server, stray).status == 200


@pytest.mark.threat("T-12")
@pytest.mark.control("T-12", without="cluster/pki/tls.py::server_context")
def test_foreign_certificate_opens_nothing(cluster: ClusterAuthority, manager: Credential) -> None:
    """The same names from another cluster's authority."""
    other = ClusterAuthority()
    foreign = other.issue(Kind.OPERATOR, "admin")
    with serving(ok, proper(cluster, manager)) as server:
        assert_refused(cluster, server, foreign)
    both = tls.server_context(
        manager.chain_pem, manager.key_pem, [*cluster.control_der, *other.control_der]
    )
    with serving(ok, both) as server:
        assert call(cluster, server, foreign).status == 200


@pytest.mark.threat("T-12")
def test_nobody_without_a_certificate(cluster: ClusterAuthority, manager: Credential) -> None:
    with serving(ok, proper(cluster, manager)) as server:
        assert_refused(cluster, server, None)
    with serving(ok, tls.server_context(manager.chain_pem, manager.key_pem, None)) as server:
        assert call(cluster, server, None).status == 200


@pytest.mark.threat("T-12")
def test_expired_certificate_opens_nothing(cluster: ClusterAuthority, manager: Credential) -> None:
    past = ManualClock(SystemClock().now() - timedelta(hours=2))
    expired = cluster.issue(Kind.NODE, clock=past)
    with serving(ok, proper(cluster, manager)) as server:
        assert_refused(cluster, server, expired)

    def forget_time(context: ssl.SSLContext) -> None:
        context.verify_flags |= NO_CHECK_TIME

    timeless = weakened(cluster, manager, forget_time)
    with serving(ok, timeless, registry=ConnectionRegistry(TRUST_DOMAIN, past)) as server:
        assert call(cluster, server, expired).status == 200
    # The register checks the date as well: with OpenSSL's check off it alone refuses.
    with serving(ok, timeless) as server, pytest.raises(Unauthenticated):
        call(cluster, server, expired)


@pytest.mark.threat("T-12")
def test_leaf_signed_by_a_nodes_key_opens_nothing(
    cluster: ClusterAuthority, manager: Credential
) -> None:
    """A node cannot act as an authority; under a real one the same leaf passes."""
    node = cluster.forge(["spiffe://lab.test/node/n1"], uses=[CLIENT])
    promoted = sign_with(cluster, node)
    genuine = cluster.issue(Kind.OPERATOR, "admin")
    with serving(ok, proper(cluster, manager)) as server:
        assert_refused(cluster, server, promoted)
        assert call(cluster, server, genuine).status == 200


def sign_with(cluster: ClusterAuthority, node: Credential) -> Credential:
    """Return an operator's leaf that a node has signed with its own key."""
    leaf = cluster.issue(
        Kind.OPERATOR, "admin", authority=Authority(node.certificate, key_from_pem(node.key_pem))
    )
    chain = leaf.chain_pem + cluster.control.certificate.public_bytes(Encoding.PEM)
    return Credential(leaf.certificate, chain, leaf.key_pem)


def test_chain_may_end_at_the_control_authority(
    cluster: ClusterAuthority, manager: Credential
) -> None:
    """Why the partial chain is allowed: without it nobody gets in as long as the root stays out."""
    node = cluster.issue(Kind.NODE)
    with serving(ok, proper(cluster, manager)) as server:
        assert call(cluster, server, node).status == 200

    def whole_chain(context: ssl.SSLContext) -> None:
        context.verify_flags &= ~ssl.VERIFY_X509_PARTIAL_CHAIN

    with (
        serving(ok, weakened(cluster, manager, whole_chain)) as server,
        pytest.raises(Unauthenticated),
    ):
        call(cluster, server, node)


def test_tls_1_2_is_refused(cluster: ClusterAuthority, manager: Credential) -> None:
    node = cluster.issue(Kind.NODE)
    old = tls.client_context(cluster.control_der, node.chain_pem, node.key_pem)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    def ask(server: Serving) -> Response:
        return request([server.endpoint], "GET", "/", context=old, trust_domain=TRUST_DOMAIN)

    with serving(ok, proper(cluster, manager)) as server, pytest.raises(Unavailable):
        ask(server)

    def allow_old(context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2

    with serving(ok, weakened(cluster, manager, allow_old)) as server:
        assert ask(server).status == 200


# --- resumption ----------------------------------------------------------------------------------


def session_of(
    server: Serving, client: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[bytes, bool, ssl.SSLSession | None]:
    """Return the answer's first bytes, whether the session was resumed, and the next session."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as plain,
        client.wrap_socket(plain, server_hostname="m1", session=session) as connection,
    ):
        answer = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answer = connection.recv(100)
        return answer, bool(connection.session_reused), connection.session


@pytest.mark.threat("T-13")
@pytest.mark.parametrize("tickets", [0, 2])
@pytest.mark.control("T-13", without="cluster/pki/tls.py::server_context")
def test_resumption_does_not_outlive_trust(
    cluster: ClusterAuthority, manager: Credential, tickets: int
) -> None:
    """A resumed session skips the client's certificate: with tickets (control) it gets in."""
    later = cluster.new_intermediate_of_control()
    trusted = [later.to_der()[0]]
    probe = cluster.issue(Kind.MANAGER, "m1", authority=later)
    node = cluster.issue(Kind.NODE)
    before = proper(cluster, manager)
    after = tls.server_context(probe.chain_pem, probe.key_pem, trusted)
    if tickets:
        before.num_tickets = after.num_tickets = tickets
    else:
        assert before.num_tickets == after.num_tickets == 0
    live = tls.LiveContext(before)
    client = tls.client_context([*cluster.control_der, *trusted], node.chain_pem, node.key_pem)
    with serving(ok, live.front) as server:
        answer, _, session = session_of(server, client, None)
        assert b"200" in answer
        rehearsal = tls.client_context(trusted, probe.chain_pem, probe.key_pem)
        server.call(lambda: live.reload(after, rehearsal, TRUST_DOMAIN))
        answer, resumed, _ = session_of(server, client, session)
        if tickets:
            assert resumed
            assert b"200" in answer
        else:
            assert (answer, resumed) == (b"", False)


# --- who may serve -------------------------------------------------------------------------------


def serving_as(cluster: ClusterAuthority, who: Credential) -> ssl.SSLContext:
    return tls.server_context(who.chain_pem, who.key_pem, None)


@pytest.mark.threat("T-08")
def test_workers_certificate_cannot_serve(cluster: ClusterAuthority) -> None:
    """A stolen node certificate as a false manager: TLS itself refuses its use."""
    with serving(ok, serving_as(cluster, cluster.issue(Kind.NODE))) as server:
        with pytest.raises(Unavailable, match="certificate does not verify"):
            call(cluster, server, None)
        # Control: without verification the same server is believed.
        answer = request([server.endpoint], "GET", "/", context=tls.unverified_context())
        assert answer.status == 200


@pytest.mark.threat("T-08")
@pytest.mark.parametrize(
    "uris",
    [
        ["spiffe://lab.test/node/n1"],
        ["spiffe://lab.test/service/manager"],
        ["spiffe://other.test/manager/m1"],
        ["spiffe://lab.test/manager/m1", "spiffe://lab.test/node/n1"],
    ],
    ids=str,
)
@pytest.mark.control("T-08", without="cluster/protocol/server_identity.py::manager_identity")
def test_only_a_managers_name_may_serve(cluster: ClusterAuthority, uris: list[str]) -> None:
    """Even with the right use and authority the name decides, and nothing is sent before."""
    false = cluster.forge(uris, uses=[SERVER])
    with serving(ok, serving_as(cluster, false)) as server:
        with pytest.raises(PermissionDenied):
            call(cluster, server, None)
        # Control: without the check of the name the same server is believed.
        context = tls.client_context(cluster.control_der)
        assert request([server.endpoint], "GET", "/", context=context).status == 200


@pytest.mark.threat("T-08")
def test_service_certificate_cannot_serve_as_a_manager(cluster: ClusterAuthority) -> None:
    """Services carry the server's use; their authority is not the managers'."""
    service = cluster.issue(Kind.SERVICE, "red")
    with serving(ok, serving_as(cluster, service)) as server:
        with pytest.raises(Unavailable, match="certificate does not verify"):
            call(cluster, server, None)
        workload = tls.client_context(list(cluster.bundle().workload))
        assert request([server.endpoint], "GET", "/", context=workload).status == 200


@pytest.mark.threat("T-08")
def test_expired_manager_is_not_believed(cluster: ClusterAuthority) -> None:
    past = ManualClock(SystemClock().now() - timedelta(hours=2))
    expired = cluster.issue(Kind.MANAGER, clock=past)
    with serving(ok, serving_as(cluster, expired)) as server:
        with pytest.raises(Unavailable, match="expired"):
            call(cluster, server, None)
        timeless = tls.client_context(cluster.control_der)
        timeless.verify_flags |= NO_CHECK_TIME
        assert request([server.endpoint], "GET", "/", context=timeless).status == 200


# --- joining -------------------------------------------------------------------------------------


@pytest.mark.threat("T-11")
def test_impostors_bundle_is_caught_by_the_digest(cluster: ClusterAuthority) -> None:
    """Before it trusts anyone a newcomer fetches the bundle from whoever answers."""
    impostor = ClusterAuthority()

    async def give_bundle(scope: Scope, receive: Receive, send: Send) -> None:
        body = json.dumps(impostor.bundle().to_dict()).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    false = impostor.issue(Kind.MANAGER)
    with serving(give_bundle, serving_as(impostor, false)) as server:
        answer = request([server.endpoint], "GET", "/v1/ca", context=tls.unverified_context())
        bundle = TrustBundle.from_dict(json.loads(answer.body))
        with pytest.raises(PermissionDenied):
            bundle.verify(cluster.bundle().root_digest())
        # Control: a newcomer that skips the digest sends its token to the impostor.
        deceived = tls.client_context(list(bundle.control))
        answer = request([server.endpoint], "GET", "/", context=deceived, trust_domain=TRUST_DOMAIN)
        assert answer.status == 200
