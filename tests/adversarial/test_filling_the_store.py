"""One caller trying to fill the store, by what is refused to him and by what is not."""

import base64
import ssl
from collections.abc import Iterator

import pytest

from cluster.pki.csr import make_csr, new_key
from cluster.protocol import wire
from cluster.store.records import Kind
from cluster.store.records.deliveries import ReceiptRecord
from tests.support.attacker import (
    Insider,
    RawSession,
    bare,
    enrol_operator,
    join_node,
    tls_connection,
)
from tests.support.running import Credential, RunningCluster, running_cluster

pytestmark = pytest.mark.threat("T-14")

REFUSED = 10_000
PIPELINED = 200


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    with running_cluster(agents=1, engine="etcd") as cluster:
        cluster.create_secret("held", b"v")
        cluster.create_service("red", 20_003, "held")
        yield cluster


@pytest.fixture(scope="module")
def insider(cluster: RunningCluster) -> Insider:
    return Insider.of(cluster)


def statuses(connection: ssl.SSLSocket, one: bytes, count: int) -> list[bytes]:
    """Send a request many times over one connection and return the answers' statuses."""
    found: list[bytes] = []
    while len(found) < count:
        batch = min(PIPELINED, count - len(found))
        connection.sendall(one * batch)
        answer, wanted = b"", len(found) + batch
        while answer.count(b"HTTP/1.1 ") < batch or not answer.endswith(b"}"):
            chunk = connection.recv(1 << 20)
            assert chunk, answer[-300:]
            answer += chunk
        found += [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
        assert len(found) == wanted
    return found


def post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_ten_thousand_refusals_leave_a_few_entries(
    cluster: RunningCluster, insider: Insider
) -> None:
    """The same caller's permitted requests each leave one: the count is no accident."""
    auditor = enrol_operator(cluster, "auditor", "auditor")
    assert cluster.operator is not None
    api = cluster.managers[0].api
    request = post("/v1/tokens", b'{"role":"worker"}')
    before = insider.entries()
    with tls_connection(api, auditor.context()) as connection:
        refused = statuses(connection, request, REFUSED)
    assert set(refused) <= {b"403", b"429"}
    assert refused.count(b"403") > REFUSED // 4
    after = insider.entries()
    assert after - before < 200
    with tls_connection(api, cluster.operator.context()) as connection:
        assert statuses(connection, request, 100) == [b"201"] * 100
    assert insider.entries() - after >= 100


def test_strangers_refusals_leave_a_few_entries(cluster: RunningCluster, insider: Insider) -> None:
    """Tokens that admit nobody, from one address as fast as it may."""
    token = "SRTKN-1-" + "a" * 52 + "-" + "a" * 26 + "-" + "a" * 52
    csr = base64.b64encode(make_csr(new_key())).decode()
    body = f'{{"token":"{token}","csr":"{csr}","name":"x"}}'.encode()
    before = insider.entries()
    answers: list[bytes] = []
    while b"429" not in answers:
        with tls_connection(cluster.managers[0].join, bare(cluster).context(), "127.0.0.9") as one:
            answers += statuses(one, post("/v1/join", body), 1)
    assert set(answers) == {b"403", b"429"}
    assert insider.entries() - before < 60


def test_node_cannot_be_certified_without_end(cluster: RunningCluster, insider: Insider) -> None:
    """Each certificate is an entry; a session is given a few, and sessions have a rate."""
    thief, _ = join_node(cluster, "thief")
    before = insider.entries()
    session = RawSession(cluster.managers[0], thief)
    session.hello()
    for _ in range(300):
        session.send(wire.SigningRequest(make_csr(new_key())))
    given = [one for one in session.rest() if isinstance(one, wire.Certificate)]
    assert 1 <= len(given) <= 10
    assert insider.entries() - before < 100


def test_node_cannot_open_sessions_without_end(cluster: RunningCluster) -> None:
    """Each opening writes the node's status."""
    thief, _ = join_node(cluster, "restless")
    opened = 0
    while opened < 500:
        try:
            RawSession(cluster.managers[0], thief).close()
        except ConnectionError:
            break
        opened += 1
    assert 1 <= opened < 500


def test_false_acks_leave_no_record(cluster: RunningCluster, insider: Insider) -> None:
    """An agent acks what it never got, under services and versions of its own invention."""
    node = Credential.of_node(cluster.agents[0].data_dir)
    receipts = insider.all(Kind.RECEIPT, ReceiptRecord)
    assert [(one.version, one.acked_at is not None) for one in receipts] == [(1, True)]
    before = insider.entries()
    session = RawSession(cluster.managers[0], node)
    session.hello()
    while not isinstance(message := session.receive(), wire.Snapshot):
        assert message is not None
    for number in range(200):
        key = wire.VersionKey(f"{number:026}", number)
        result = wire.ServiceResult(f"{number:026}", (key,) * 50, "e" * 1_000, 2**31)
        session.send(wire.Ack(message.revision, (result,), (f"{number:026}",)))
    session.send(wire.LeaseRequest(1))
    while not isinstance(answer := session.receive(), wire.Lease):
        assert answer is not None
    session.close()
    assert insider.all(Kind.RECEIPT, ReceiptRecord) == receipts
    assert insider.entries() - before < 30
