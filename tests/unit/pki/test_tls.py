"""TLS contexts and what is read from a certificate; the attacks are in tests/adversarial."""

import ssl
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from cluster.pki import tls
from cluster.protocol.errors import InvalidRequest, PermissionDenied, Unauthenticated
from cluster.protocol.identity import Kind, SpiffeId
from cluster.system import SystemClock
from tests.support.authority import CLIENT, SERVER, TRUST_DOMAIN, ClusterAuthority, Credential
from tests.support.clock import ManualClock


@pytest.fixture(scope="module")
def cluster() -> ClusterAuthority:
    return ClusterAuthority()


def server_of(cluster: ClusterAuthority, who: Credential) -> ssl.SSLContext:
    return tls.server_context(who.chain_pem, who.key_pem, cluster.control_der)


def client_of(cluster: ClusterAuthority, who: Credential) -> ssl.SSLContext:
    return tls.client_context(cluster.control_der, who.chain_pem, who.key_pem)


def test_manager_and_node_meet(cluster: ClusterAuthority) -> None:
    manager, node = cluster.issue(Kind.MANAGER, "m1"), cluster.issue(Kind.NODE)
    met = tls.rehearse(server_of(cluster, manager), client_of(cluster, node), TRUST_DOMAIN)
    assert met == SpiffeId(TRUST_DOMAIN, Kind.MANAGER, "m1")


def test_server_without_client_authorities_asks_for_none(cluster: ClusterAuthority) -> None:
    manager = cluster.issue(Kind.MANAGER)
    server = tls.server_context(manager.chain_pem, manager.key_pem, None)
    tls.rehearse(server, tls.client_context(cluster.control_der), TRUST_DOMAIN)


def test_both_ends_speak_tls_1_3_only_without_tickets(cluster: ClusterAuthority) -> None:
    server = server_of(cluster, cluster.issue(Kind.MANAGER))
    assert server.minimum_version == ssl.TLSVersion.TLSv1_3
    assert server.num_tickets == 0
    assert tls.client_context(cluster.control_der).minimum_version == ssl.TLSVersion.TLSv1_3
    assert tls.unverified_context().minimum_version == ssl.TLSVersion.TLSv1_3


def test_trusting_nobody_is_refused(cluster: ClusterAuthority) -> None:
    """An empty list must not become a listener that demands no certificate."""
    manager = cluster.issue(Kind.MANAGER)
    with pytest.raises(InvalidRequest):
        tls.server_context(manager.chain_pem, manager.key_pem, [])
    with pytest.raises(InvalidRequest):
        tls.client_context([])


def test_key_of_another_certificate_is_refused(cluster: ClusterAuthority) -> None:
    one, other = cluster.issue(Kind.MANAGER), cluster.issue(Kind.MANAGER)
    with pytest.raises(InvalidRequest) as caught:
        tls.server_context(one.chain_pem, other.key_pem, cluster.control_der)
    assert "PRIVATE" not in str(caught.value)


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_loading_a_key_leaves_no_descriptor_open(cluster: ClusterAuthority) -> None:
    manager = cluster.issue(Kind.MANAGER)
    before = open_descriptors()
    server_of(cluster, manager)
    with pytest.raises(InvalidRequest):
        tls.server_context(manager.chain_pem, b"", cluster.control_der)
    assert open_descriptors() <= before


@pytest.mark.needs_root
def test_key_loads_in_a_process_that_may_not_be_dumped(
    cluster: ClusterAuthority, tmp_path: Path
) -> None:
    """PR_SET_DUMPABLE 0 hands /proc/self to root: the way through it must still open."""
    manager = cluster.issue(Kind.MANAGER)
    script = (
        "import ctypes, os, ssl, sys\n"
        "from cluster.pki import tls\n"
        "chain, key = sys.stdin.buffer.read().split(b'|')\n"
        "os.setgid(12345); os.setuid(12345)\n"
        "assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0\n"
        "tls.load_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), chain, key)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        input=manager.chain_pem + b"|" + manager.key_pem,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr


def test_importing_the_module_does_not_import_cryptography() -> None:
    """The command line pays for every import."""
    script = (
        "import sys, cluster.pki.tls, cluster.protocol.https_client\n"
        "print([m for m in ('cryptography', 'msgspec', 'logging', 'http.client', 'asyncio', "
        "'structlog', 'random') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True, timeout=60
    )
    assert run.stdout.strip() == "[]"


def test_caller_is_read_from_the_leaf(cluster: ClusterAuthority) -> None:
    node = cluster.issue(Kind.NODE, "n1")
    caller = tls.caller_from_der(node.der)
    assert caller.identity == SpiffeId(TRUST_DOMAIN, Kind.NODE, "n1")
    assert caller.serial == node.certificate.serial_number
    assert caller.fingerprint == node.fingerprint
    assert caller.not_after_s == node.certificate.not_valid_after_utc.timestamp()


NODE = "spiffe://lab.test/node/n1"


@pytest.mark.parametrize(
    "uris",
    [
        [],
        [NODE, "spiffe://lab.test/manager/m1"],
        ["https://lab.test/node/n1"],
        ["spiffe://lab.test/node/n1/"],
        ["spiffe://lab.test/../lab.test/node/n1"],
        ["spiffe://lab.test/root/n1"],
        ["SPIFFE://lab.test/node/n1"],
    ],
    ids=str,
)
def test_certificate_without_exactly_one_id_of_ours_names_nobody(
    cluster: ClusterAuthority, uris: list[str]
) -> None:
    with pytest.raises(Unauthenticated):
        tls.caller_from_der(cluster.forge(uris).der)


def test_certificate_not_for_clients_names_nobody(cluster: ClusterAuthority) -> None:
    tls.caller_from_der(cluster.forge([NODE], uses=[CLIENT]).der)
    with pytest.raises(Unauthenticated):
        tls.caller_from_der(cluster.forge([NODE], uses=[SERVER]).der)


def test_authority_names_nobody(cluster: ClusterAuthority) -> None:
    with pytest.raises(Unauthenticated):
        tls.caller_from_der(cluster.forge([NODE], is_authority=True).der)
    with pytest.raises(Unauthenticated):
        tls.caller_from_der(b"\x30\x00")


def test_live_context_serves_the_new_certificate(cluster: ClusterAuthority) -> None:
    node, operator = cluster.issue(Kind.NODE), cluster.issue(Kind.MANAGER, "probe")
    live = tls.LiveContext(server_of(cluster, cluster.issue(Kind.MANAGER, "old")))
    client = client_of(cluster, node)
    assert tls.rehearse(live.front, client, TRUST_DOMAIN).subject == "old"
    renewed = server_of(cluster, cluster.issue(Kind.MANAGER, "new"))
    live.reload(renewed, client_of(cluster, operator), TRUST_DOMAIN)
    assert live.current is renewed
    assert tls.rehearse(live.front, client, TRUST_DOMAIN).subject == "new"


def test_live_context_swaps_trust(cluster: ClusterAuthority) -> None:
    """After a rotation of the control authority the old one's certificates open nothing."""
    old_node = cluster.issue(Kind.NODE)
    later = cluster.new_intermediate_of_control()
    new_manager = cluster.issue(Kind.MANAGER, authority=later)
    new_node = cluster.issue(Kind.NODE, authority=later)
    trusted = [later.to_der()[0]]
    clients = {
        who: tls.client_context([*cluster.control_der, *trusted], who.chain_pem, who.key_pem)
        for who in (old_node, new_node)
    }
    live = tls.LiveContext(server_of(cluster, cluster.issue(Kind.MANAGER)))
    tls.rehearse(live.front, clients[old_node], TRUST_DOMAIN)
    with pytest.raises(InvalidRequest):
        tls.rehearse(live.front, clients[new_node], TRUST_DOMAIN)
    renewed = tls.server_context(new_manager.chain_pem, new_manager.key_pem, trusted)
    live.reload(renewed, clients[new_node], TRUST_DOMAIN)
    tls.rehearse(live.front, clients[new_node], TRUST_DOMAIN)
    with pytest.raises(InvalidRequest):
        tls.rehearse(live.front, clients[old_node], TRUST_DOMAIN)


@pytest.mark.parametrize("who", ["expired", "foreign", "node", "lenient"])
def test_live_context_keeps_what_works(cluster: ClusterAuthority, who: str) -> None:
    """A context that could serve nobody, or demands less of clients, is never swapped in."""
    past = ManualClock(SystemClock().now() - timedelta(hours=2))
    manager = cluster.issue(Kind.MANAGER)
    node = cluster.issue(Kind.NODE)
    bad = {
        "expired": server_of(cluster, cluster.issue(Kind.MANAGER, clock=past)),
        "foreign": server_of(cluster, ClusterAuthority().issue(Kind.MANAGER)),
        "node": server_of(cluster, node),
        "lenient": tls.server_context(manager.chain_pem, manager.key_pem, None),
    }[who]
    works = server_of(cluster, manager)
    live = tls.LiveContext(works)
    with pytest.raises((InvalidRequest, PermissionDenied)):
        live.reload(bad, client_of(cluster, manager), TRUST_DOMAIN)
    assert live.current is works
    tls.rehearse(live.front, client_of(cluster, node), TRUST_DOMAIN)
