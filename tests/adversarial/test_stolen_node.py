"""A node's data directory in the wrong hands: what its key opens, and for how long.

Every refusal stands beside what the same key and the same tooling do get.
"""

import base64
import ssl
import subprocess
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cluster.pki.csr import key_from_pem, key_to_pem, make_csr, new_key, sign_return_request
from cluster.pki.tls import server_context
from cluster.protocol import wire
from cluster.protocol.errors import ClusterError
from cluster.protocol.https_client import request
from tests.support.attacker import (
    RawSession,
    answer_of,
    hello,
    join_node,
    stranger_call,
    tls_connection,
)
from tests.support.issuing import issue
from tests.support.running import (
    SCRIPTS,
    TRUST_DOMAIN,
    AgentProcess,
    Credential,
    RunningCluster,
    running_cluster,
    wait_until,
)
from tests.support.serving import Receive, Scope, Send, serving

OWN, OTHER = b"own-value-5f2c", b"other-value-81ab"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """Two nodes with a secret each; the first one's key is stolen."""
    with running_cluster(agents=2) as cluster:
        for node, service, value in (("n1", "red", OWN), ("n2", "blue", OTHER)):
            cluster.create_secret(f"{service}-secret", value)
            cluster.create_service(
                service, 20_001, f"{service}-secret", constraints=[f"node.name=={node}"]
            )
        yield cluster


@pytest.fixture(scope="module")
def stolen(cluster: RunningCluster) -> Credential:
    return Credential.of_node(cluster.agents[0].data_dir)


def first_snapshot(session: RawSession) -> list[wire.FromManager]:
    """Return the messages up to the first snapshot."""
    messages: list[wire.FromManager] = []
    while not (messages and isinstance(messages[-1], wire.Snapshot)):
        message = session.receive()
        assert message is not None, "the session ended before its snapshot"
        messages.append(message)
    return messages


@pytest.mark.threat("T-05")
def test_stolen_key_is_issued_its_nodes_secrets_only(
    cluster: RunningCluster, stolen: Credential
) -> None:
    """Own: the value. Another's, by every name it has, and what does not exist: one answer."""

    def ask(service: str, secret: str) -> tuple[int, object]:
        answer = issue(cluster, service, secret, stolen)
        return answer.status, answer.body.get("value", answer.body)

    blue = cluster.ok("GET", "/v1/secrets/blue-secret")["id"]
    assert ask("red", "red-secret") == (200, OWN)
    refused = {
        repr(ask(*names))
        for names in (
            ("blue", "blue-secret"),
            ("red", "blue-secret"),
            ("blue", "red-secret"),
            ("red", blue),
            ("red", "../blue/blue-secret"),
            ("red", "RED-SECRET"),
            ("red", "red-secret\x00"),
            ("red", ""),
            ("", "red-secret"),
            ("no-such", "no-such"),
        )
    }
    assert len(refused) == 1
    assert refused.pop().startswith("(403")


@pytest.mark.threat("T-05")
def test_stolen_key_is_sent_its_nodes_secrets_only(
    cluster: RunningCluster, stolen: Credential
) -> None:
    """A session with forged claims: held versions, acks and resyncs of another's secrets."""
    blue = str(cluster.ok("GET", "/v1/secrets/blue-secret")["id"])
    blue_service = str(cluster.ok("GET", "/v1/services/blue")["id"])
    session = RawSession(cluster.managers[0], stolen)
    session.hello(held=(wire.VersionKey(blue, 1),))
    messages = first_snapshot(session)
    forged = wire.ServiceResult(blue_service, (wire.VersionKey(blue, 1),), "", 1)
    snapshot = messages[-1]
    assert isinstance(snapshot, wire.Snapshot)
    session.send(wire.Ack(snapshot.revision, (forged,), (blue_service,)))
    session.send(wire.Resync((wire.VersionKey(blue, 1),)))
    messages += first_snapshot(session)
    # A rotation of the other's secret wakes nobody here.
    cluster.rotate("blue-secret", OTHER)
    session.send(wire.Resync(()))
    messages += first_snapshot(session)
    session.close()
    assert set(session.values_in(messages).values()) == {OWN}
    assert {one.name for m in messages if isinstance(m, wire.Snapshot) for one in m.services} == {
        "red"
    }
    for word in (OTHER, b"blue"):
        assert all(word not in wire.encode(message) for message in messages)
    (task,) = cluster.ok("GET", "/v1/services/blue/tasks")["tasks"]
    assert [one["version_mounted"] for one in task["references"]] == [2]


@pytest.mark.threat("T-28")
def test_stolen_key_does_not_return_before_it_expires_nor_with_a_forged_proof(
    cluster: RunningCluster, stolen: Credential
) -> None:
    """A return takes the old key's signature over this very request."""
    leaf = base64.b64encode(ssl.PEM_cert_to_DER_cert(first_pem(stolen.chain_pem))).decode()
    csr = make_csr(new_key())
    signed = sign_return_request(key_from_pem(stolen.key_pem), csr)
    other = sign_return_request(new_key(), csr)
    for request_of, signature in ((csr, other), (make_csr(new_key()), signed), (csr, b"")):
        body = {
            "csr": base64.b64encode(request_of).decode(),
            "certificate": leaf,
            "signature": base64.b64encode(signature).decode(),
        }
        answer = stranger_call(cluster, cluster.managers[0], "POST", "/v1/return", body)
        assert answer.status == 403, answer.body


def first_pem(chain: bytes) -> str:
    """Return the leaf of a chain."""
    text = chain.decode()
    end = "-----END CERTIFICATE-----\n"
    return text[: text.index(end) + len(end)]


# --- a false manager -----------------------------------------------------------------------------


async def believed(scope: Scope, receive: Receive, send: Send) -> None:
    """Say yes to everything."""
    ASKED.append(str(scope.get("path", scope["type"])))
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": wire.encode(wire.Wipe("evicted"))})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b'{"secrets": []}'})


ASKED: list[str] = []


@pytest.mark.threat("T-08")
def test_false_manager_with_a_nodes_key_is_believed_by_no_agent(
    cluster: RunningCluster, stolen: Credential
) -> None:
    """A real agent is led to it alone: it sends nothing, wipes nothing, and keeps its files."""
    agent = cluster.agents[1]
    ASKED.clear()
    with serving(believed, server_context(stolen.chain_pem, stolen.key_pem, None)) as false:
        agent.stop()
        led = AgentProcess(agent.name, agent.base, agent.env)
        led.argv += ["--manager", false.endpoint]
        led.log = agent.base / "led-astray.log"
        led.start()
        try:
            wait_until(lambda: led.text().count("link.not_opened") >= 3, "the agent tries")
        finally:
            led.stop()
    assert ASKED == []
    assert "CERTIFICATE_VERIFY_FAILED" in led.text().upper().replace(" ", "_")
    assert agent.read("blue", "blue-secret") == OTHER
    agent.start()
    wait_until(lambda: cluster.node("n2")["state"] == "ready", "the agent is back")


@pytest.mark.threat("T-08")
def test_false_manager_with_a_nodes_key_is_believed_by_no_operator(
    cluster: RunningCluster, stolen: Credential
) -> None:
    """The command's own client refuses before it sends; without its check it would have sent."""
    assert cluster.operator is not None
    ASKED.clear()
    with serving(believed, server_context(stolen.chain_pem, stolen.key_pem, None)) as false:
        with pytest.raises(ClusterError):
            request(
                [false.endpoint], "POST", "/v1/secrets?name=x", body=OTHER,
                context=cluster.operator.context(), trust_domain=TRUST_DOMAIN,
            )  # fmt: skip
        assert ASKED == []
        careless = cluster.operator.context()
        careless.verify_mode = ssl.CERT_NONE
        assert request([false.endpoint], "GET", "/v1/secrets", context=careless).status == 200
    assert ASKED == ["/v1/secrets"]


# --- removed -------------------------------------------------------------------------------------


@pytest.mark.threat("T-10")
def test_removed_node_is_cut_and_told_to_wipe(cluster: RunningCluster) -> None:
    """Every kind of open connection ends, though its certificate is still valid for a day."""
    thief, _ = join_node(cluster, "n3")
    manager = cluster.managers[0]
    session, silent = (RawSession(manager, thief) for _ in range(2))
    session.hello()
    first_snapshot(session)
    silent.hello()
    with (
        tls_connection(manager.api, thief.context()) as idle,
        tls_connection(manager.api, thief.context()) as waiting,
    ):
        idle.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n")
        assert idle.recv(12) == b"HTTP/1.1 200"
        waiting.sendall(b"POST /v1/issue HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        cluster.ok("DELETE", "/v1/nodes/n3")
        assert any(isinstance(message, wire.Wipe) for message in session.rest())
        assert any(isinstance(message, wire.Wipe) for message in silent.rest())
        answer_of(idle, b"")
        assert b"200" not in answer_of(waiting, b"")[:15]
    # A later connect is told, so that an agent that was away wipes as well.
    later = RawSession(manager, thief)
    later.send(hello())
    (refusal,) = later.rest()
    assert isinstance(refusal, wire.Refusal)
    assert refusal.code == "evicted"
    assert issue(cluster, "red", "red-secret", thief).body["code"] == "evicted"


@pytest.mark.threat("T-10")
def test_renewed_away_certificate_is_worth_nothing(cluster: RunningCluster) -> None:
    """After two renewals the thief's copy is neither the newest nor the one before."""
    thief, _ = join_node(cluster, "n4")
    renewed = thief
    for turn in range(3):
        status = issue(cluster, "x", "x", thief).status
        assert status == (401 if turn == 2 else 403)
        renewed = renew(cluster, renewed)
    assert issue(cluster, "x", "x", renewed).status == 403


def renew(cluster: RunningCluster, credential: Credential) -> Credential:
    """Return the certificate that a session with the present one gives."""
    key = new_key()
    session = RawSession(cluster.managers[0], credential)
    session.hello()
    session.send(wire.SigningRequest(make_csr(key)))
    while not isinstance(message := session.receive(), wire.Certificate):
        assert message is not None
    session.close()
    certificates = [x509.load_der_x509_certificate(der) for der in message.chain]
    pem = b"".join(one.public_bytes(Encoding.PEM) for one in certificates)
    return Credential(pem, key_to_pem(key), credential.control)


# --- red, inside the agent's own namespaces ------------------------------------------------------

REACH = """
import os, socket, sys
for path in sys.argv[2:]:
    try:
        if path.endswith(".sock"):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(path)
        elif os.path.isdir(path):
            os.listdir(path)[0]
        else:
            open(path).close()
        print("reached", path)
    except (OSError, IndexError):  # a cover is an empty directory
        pass
import ssl
try:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = sys.argv[1].split(":")
    with context.wrap_socket(socket.create_connection((host, int(port)), 10)) as s:
        s.sendall(b"GET /v1/secrets HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n")
        answer = s.recv(100)
        if answer:
            print("answered", answer)
except OSError:
    pass
print(open("/run/secrets/red-secret").read())
"""


@pytest.mark.threat("T-19")
@pytest.mark.needs_root
def test_red_reaches_nothing_of_its_agents(cluster: RunningCluster) -> None:
    """As red's uid in red's namespaces: not the key, the control socket, the mounts, the API."""
    agent = cluster.agents[0]
    paths = [
        agent.data_dir,
        *sorted(agent.data_dir.iterdir()),
        agent.run_dir / "control.sock",
        agent.run_dir / "secrets",
        agent.run_dir / "secrets" / "red",
        cluster.managers[0].admin_socket,
        cluster.managers[0].base / "data" / "seal",
    ]
    assert len(paths) > 7
    assert all(path.exists() for path in paths)
    own = [str(SCRIPTS / "strongroom-agent"), "exec", "--run-dir", str(agent.run_dir)]
    script = ["/usr/bin/python3", "-I", "-c", REACH]
    arguments = [cluster.managers[0].api, *map(str, paths)]
    done = subprocess.run(
        [*own, "--service", "red", "--", *script, *arguments],
        capture_output=True, text=True, env=agent.env, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == OWN.decode(), done.stdout + done.stderr
    # The control: root, outside, reaches every one of them.
    root = subprocess.run([*script, *arguments], capture_output=True, text=True, check=False)
    assert root.stdout.count("reached") == len(paths), root.stdout + root.stderr
