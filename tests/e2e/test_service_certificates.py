"""Certificates of services: two reds on two nodes talk mutual TLS while theirs are renewed; blue is
refused by red, and by the managers."""

import json
import ssl
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from spiffe import X509Source

from cluster.pki.tls import client_context
from cluster.protocol.errors import Unauthenticated
from cluster.protocol.https_client import request
from tests.support.running import (
    TRUST_DOMAIN,
    AgentProcess,
    Process,
    RunningCluster,
    empty_cluster,
    free_ports,
    wait_until,
)

PYTHON = "/usr/bin/python3"
TTL_S = 20.0
RED_UID, BLUE_UID = 28_001, 28_002

_COMMON = """
import json, os, socket, ssl, time
RED = ("URI", "spiffe://{domain}/service/red")
seen, contexts = None, {{}}

def context(purpose):
    '''Load the set anew once it was swapped: all three files from one generation.'''
    global seen
    current = os.path.realpath("/run/secrets/..data")
    if current != seen:
        seen = current
        contexts.clear()
    if purpose not in contexts:
        made = ssl.create_default_context(purpose, cafile=current + "/ca.crt")
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_cert_chain(current + "/tls.crt", current + "/tls.key")
        contexts[purpose] = made
    return contexts[purpose]

def say(**what):
    print(json.dumps(what), flush=True)
"""
_SERVER = (
    _COMMON
    + """
listener = socket.create_server(("127.0.0.1", {port}))
while True:
    plain, _ = listener.accept()
    plain.settimeout(10)
    try:
        with context(ssl.Purpose.CLIENT_AUTH).wrap_socket(plain, server_side=True) as tls:
            peer = tls.getpeercert()
            allowed = RED in peer["subjectAltName"]
            if allowed:
                tls.sendall(tls.recv(5))
            say(serial=peer["serialNumber"], allowed=allowed)
    except OSError as error:
        say(error=repr(error))
"""
)
_CLIENT = (
    _COMMON
    + """
while True:
    try:
        with socket.create_connection(("127.0.0.1", {port}), 10) as plain:
            made = context(ssl.Purpose.SERVER_AUTH)
            with made.wrap_socket(plain, server_hostname="red") as tls:
                peer = tls.getpeercert()
                tls.sendall(b"hello")
                answered = tls.recv(5) == b"hello"
        say(serial=peer["serialNumber"], red=RED in peer["subjectAltName"], answered=answered)
    except OSError as error:
        say(error=repr(error))
    time.sleep(0.05)
"""
)

_CONNECT = """
import socket, sys
try:
    socket.socket(socket.AF_UNIX).connect(sys.argv[1])
except OSError as error:
    print(type(error).__name__)
else:
    print("connected")
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """One manager whose services' certificates live 20 seconds; red on two nodes, blue on one."""
    with empty_cluster() as running:
        running.found(service_ttl_s=TTL_S)
        for _ in range(2):
            running.add_agent()
        running.create_secret("shared", b"one")
        running.create_service("red", RED_UID, "shared", certificate=True, **{"global": True})
        constraint = f"node.name=={running.agents[0].name}"
        running.create_service("blue", BLUE_UID, certificate=True, constraints=[constraint])
        yield running


class App(Process):
    """A program of a service under `strongroom-agent exec` that prints JSON lines."""

    def __init__(
        self, cluster: RunningCluster, agent: AgentProcess, service: str, program: str, port: int
    ) -> None:
        argv = [
            agent.argv[0], "exec", "--service", service,
            "--run-dir", str(agent.run_dir), "--",
            PYTHON, "-I", "-c", program.format(port=port, domain=TRUST_DOMAIN),
        ]  # fmt: skip
        number = len(list(cluster.base.glob("app-*.log")))
        super().__init__(service, argv, cluster.base / f"app-{number}.log", cluster.env)

    def lines(self) -> list[dict[str, Any]]:
        """Return what it has said so far."""
        return [json.loads(line) for line in self.text().splitlines() if line.startswith("{")]

    def serials(self) -> set[str]:
        """Return the serials it has seen at the other end."""
        return {line["serial"] for line in self.lines() if "serial" in line}


@contextmanager
def app(
    cluster: RunningCluster, agent: AgentProcess, service: str, program: str, port: int
) -> Iterator[App]:
    made = App(cluster, agent, service, program, port)
    made.start()
    try:
        yield made
    finally:
        made.kill()


def leaf(mount: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificates((mount / "tls.crt").read_bytes())[0]


def test_service_finds_its_certificate_beside_its_secrets(cluster: RunningCluster) -> None:
    """`service create` has returned: the whole set is there, for the service alone."""
    keys = set()
    for agent in cluster.agents:
        mount = agent.mount("red")
        for target in ("tls.crt", "tls.key", "ca.crt", "shared"):
            found = (mount / target).stat()
            assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (RED_UID, 0o440), target
        names = leaf(mount).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        assert uris == [f"spiffe://{TRUST_DOMAIN}/service/red"]
        assert names.get_values_for_type(x509.DNSName) == ["red", f"red.{TRUST_DOMAIN}"]
        assert (mount / "tls.key").read_bytes().startswith(b"-----BEGIN PRIVATE KEY")
        keys.add((mount / "tls.key").read_bytes())
    assert len(keys) == 2, "each node makes its own"
    # The set came with the certificate, not before it.
    assert [one["error"] for one in cluster.ok("GET", "/v1/services/red/tasks")["tasks"]] == [
        "",
        "",
    ]


@pytest.mark.threat("T-18")
def test_key_rests_in_the_tmpfs_alone(cluster: RunningCluster) -> None:
    """Neither an agent's directory nor a manager's holds it, in any form, and no log does."""
    agent = cluster.agents[0]
    key_pem = (agent.mount("red") / "tls.key").read_bytes()
    key = serialization.load_pem_private_key(key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    scalar = key.private_numbers().private_value.to_bytes(32)
    line = key_pem.splitlines()[1]
    mounts = [one.run_dir / "secrets" for one in cluster.agents]
    searched = 0
    for path in cluster.base.rglob("*"):
        if path.is_file() and not any(path.is_relative_to(mount) for mount in mounts):
            content = path.read_bytes()
            searched += len(content)
            assert line not in content, path
            assert scalar not in content, path
            assert scalar.hex().encode() not in content, path
    assert searched > 100_000


@pytest.mark.threat("T-07")
def test_service_certificate_opens_nothing_at_a_manager(cluster: RunningCluster) -> None:
    """The handshake itself fails; the same client with a node's certificate gets further."""
    (manager, agent) = (cluster.managers[0], cluster.agents[0])
    mount = agent.mount("red")
    assert cluster.operator is not None
    context = client_context(
        cluster.operator.control, (mount / "tls.crt").read_bytes(), (mount / "tls.key").read_bytes()
    )
    with pytest.raises(Unauthenticated):
        request([manager.api], "GET", "/v1/status", context=context, trust_domain=TRUST_DOMAIN)
    assert cluster.call("GET", "/v1/status").status == 200


@pytest.mark.slow
@pytest.mark.threat("T-31")
def test_reds_talk_through_renewals_and_red_refuses_blue(cluster: RunningCluster) -> None:
    """No request fails while both ends renew several times and one agent restarts, and a
    secret beside the certificate is rotated."""
    near, far = cluster.agents
    (port,) = free_ports(1)
    with (
        app(cluster, near, "red", _SERVER, port) as server,
        app(cluster, far, "red", _CLIENT, port) as client,
    ):
        wait_until(lambda: any(line.get("answered") for line in client.lines()), "they talk")
        begun = len(client.lines())
        with app(cluster, near, "blue", _CLIENT, port) as blue:
            wait_until(lambda: len(blue.lines()) >= 3, "blue tried")
        assert not any(line.get("answered") for line in blue.lines())
        assert any(line.get("allowed") is False for line in server.lines()), "its chain was good"

        cluster.rotate("shared", b"two")
        assert (near.read("red", "shared"), far.read("red", "shared")) == (b"two", b"two")
        far.stop()
        far.start()
        wait_until(lambda: len(client.serials()) >= 3, "the server's end was renewed twice")
        wait_until(
            lambda: len({s["serial"] for s in server.lines() if s.get("allowed")}) >= 4,
            "the client's end was renewed three times",
        )
        said = client.lines()[begun:]
    assert len(said) > 100
    assert [line for line in said if not (line.get("answered") and line.get("red"))] == []


def test_restarted_agent_makes_a_new_key(cluster: RunningCluster) -> None:
    """The files stay meanwhile, whole."""
    agent = cluster.agents[0]
    mount = agent.mount("blue")
    before = (mount / "tls.key").read_bytes()
    agent.stop()
    assert (mount / "tls.key").read_bytes() == before
    agent.start()
    wait_until(lambda: (mount / "tls.key").read_bytes() != before, "there is another key")
    context = ssl.create_default_context(cafile=str(mount / "ca.crt"))
    context.load_cert_chain(mount / "tls.crt", mount / "tls.key")


@pytest.mark.slow
@pytest.mark.threat("T-40")
def test_spiffe_client_follows_the_service(cluster: RunningCluster) -> None:
    """The client from PyPI, unchanged, through a renewal; the process has the service's rights."""
    agent = cluster.agents[0]
    path = agent.run_dir / "workload" / "red" / "spiffe.sock"
    argv = [agent.argv[0], "spiffe", "--service", "red", "--run-dir", str(agent.run_dir)]
    served = Process("spiffe", argv, cluster.base / "spiffe.log", cluster.env)
    served.start()
    try:
        wait_until(lambda: "spiffe.started" in served.text(), "it serves")
        status = Path(f"/proc/{served.pid}/status").read_text()
        assert f"Uid:\t{RED_UID}\t{RED_UID}\t{RED_UID}\t{RED_UID}\n" in status
        assert "NoNewPrivs:\t1\n" in status
        with X509Source(socket_path=f"unix://{path}", timeout_in_seconds=30) as source:
            first = source.get_x509_context().default_svid
            assert str(first.spiffe_id) == f"spiffe://{TRUST_DOMAIN}/service/red"
            agent.stop()
            agent.start()
            wait_until(
                lambda: (
                    source.get_x509_context().default_svid.leaf.serial_number
                    != first.leaf.serial_number
                ),
                "the next certificate arrives",
            )
        assert connects(agent, "red", RED_UID, path) == ("connected", "connected")
        assert connects(agent, "blue", BLUE_UID, path) == ("FileNotFoundError", "PermissionError")
    finally:
        assert served.stop() == 0


def connects(agent: AgentProcess, service: str, uid: int, path: Path) -> tuple[str, str]:
    """Return what a service meets at the socket: inside `exec`, and by its uid alone."""
    inside = [
        agent.argv[0], "exec", "--service", service, "--run-dir", str(agent.run_dir), "--",
        PYTHON, "-I", "-c", _CONNECT, "/run/strongroom/spiffe.sock",
    ]  # fmt: skip
    outside = [PYTHON, "-I", "-c", _CONNECT, str(path)]
    first = subprocess.run(inside, capture_output=True, text=True, check=True, timeout=60)
    second = subprocess.run(
        outside, capture_output=True, text=True, check=True, timeout=60,
        user=uid, group=uid, extra_groups=[],
    )  # fmt: skip
    return first.stdout.strip(), second.stdout.strip()


def test_certificate_goes_with_its_service(cluster: RunningCluster) -> None:
    agent = cluster.agents[0]
    constraint = f"node.name=={agent.name}"
    cluster.create_secret("kept", b"kept")
    cluster.create_service("green", 28_003, "kept", certificate=True, constraints=[constraint])
    assert agent.read("green", "tls.key") is not None
    spec = cluster.ok("GET", "/v1/services/green")["spec"]
    answer = cluster.ok(
        "PUT", "/v1/services/green", {"spec": {"name": "green", **spec, "certificate": False}}
    )
    cluster.wait_rollout(answer["rollout"])
    assert (agent.read("green", "tls.key"), agent.read("green", "kept")) == (None, b"kept")
    answer = cluster.ok(
        "PUT", "/v1/services/green", {"spec": {"name": "green", **spec, "certificate": True}}
    )
    cluster.wait_rollout(answer["rollout"])
    assert agent.read("green", "tls.key") is not None
    cluster.ok("DELETE", "/v1/services/green")
    wait_until(lambda: agent.read("green", "tls.key") is None, "it is gone")
