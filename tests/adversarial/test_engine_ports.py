"""Three managers on etcd: the engine's ports to those who have no business there, and a manager
that is cut off from the majority to a node that was removed.
"""

import contextlib
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cluster.pki.ca import Authority, issue_engine_certificate
from cluster.pki.csr import make_csr, new_key
from cluster.pki.tls import load_chain
from cluster.protocol import wire
from cluster.protocol.identity import Kind as IdentityKind
from tests.support.attacker import Insider, RawSession, answer_of, hello
from tests.support.frozen import freeze_process
from tests.support.issuing import issue
from tests.support.running import (
    Credential,
    ManagerProcess,
    RunningCluster,
    running_cluster,
    wait_until,
)

VERSION = b"GET /members HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
NOBODY = 65_534


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    with running_cluster(managers=3, agents=1, engine="etcd") as cluster:
        cluster.create_secret("held", b"held-value-41cd")
        cluster.create_service("red", 20_003, "held", replicas=1)
        yield cluster


def ask_peer_port(cluster: RunningCluster, credential: Credential | None) -> bytes:
    """Return what the engine's peer port answers; b"" where the handshake or request fails.

    The server is not verified: the attacker takes whoever answers.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if credential is not None:
        load_chain(context, credential.chain_pem, credential.key_pem)
    address = ("127.0.0.1", cluster.managers[0].peer_port)
    try:
        with (
            socket.create_connection(address, timeout=30) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            return answer_of(connection, VERSION)
    except (ssl.SSLError, ConnectionError):
        return b""


@pytest.mark.threat("T-07")
def test_engines_peer_port_takes_no_certificate_of_ours(cluster: RunningCluster) -> None:
    """Not a node's, a service's, an operator's, nor a manager's own: only the engine's CA's."""
    insider = Insider.of(cluster)
    assert cluster.operator is not None
    callers = {
        "nobody": None,
        "node": Credential.of_node(cluster.agents[0].data_dir),
        "service": insider.issue(IdentityKind.SERVICE, "red"),
        "operator": cluster.operator,
        "manager": insider.manager_credential(),
    }
    for name, credential in callers.items():
        assert ask_peer_port(cluster, credential) == b"", name
    contents = insider.contents
    authority = Authority.from_der(contents.engine_ca_certificate, contents.engine_ca_key.reveal())
    chain, key = issue_engine_certificate(authority, "m1", ["127.0.0.1"])
    proper = Credential(chain, key, ())
    assert ask_peer_port(cluster, proper).startswith(b"HTTP/1.1 200")


@pytest.mark.threat("T-07")
@pytest.mark.needs_root
def test_engines_client_socket_is_roots_and_no_port(cluster: RunningCluster) -> None:
    """The engine serves clients on a unix socket below a closed directory, and nowhere else."""
    for manager in cluster.managers:
        directory = manager.base / "run" / "engine"
        (path,) = directory.glob("*.sock:0")
        assert directory.stat().st_mode & 0o077 == 0
        script = (
            "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n"
            "print('connected')"
        )
        command = ["/usr/bin/python3", "-I", "-c", script, str(path)]
        identity = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        refused = subprocess.run([*identity, *command], capture_output=True, check=False)
        assert b"PermissionError" in refused.stderr
        allowed = subprocess.run(command, capture_output=True, check=False)
        assert allowed.stdout == b"connected\n"
    assert listening_ports(cluster) == {
        port for one in cluster.managers for port in (one.api_port, one.join_port, one.peer_port)
    }


def listening_ports(cluster: RunningCluster) -> set[int]:
    """Return the TCP ports on which the managers and their engines listen."""
    inodes = set()
    for pid in (pid for manager in cluster.managers for pid in family(manager)):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(link.readlink())
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def family(manager: ManagerProcess) -> list[int]:
    """Return the pids of a manager and of its children."""
    tasks = Path(f"/proc/{manager.pid}/task").iterdir()
    children = [(task / "children").read_text().split() for task in tasks]
    return [manager.pid, *(int(child) for found in children for child in found)]


# --- cut off from the majority -------------------------------------------------------------------

SECRET_BEARING = (wire.Lease, wire.Values, wire.Snapshot, wire.Delta, wire.Certificate)


# Last: it stops managers.
@pytest.mark.slow
@pytest.mark.threat("T-09")
def test_manager_without_a_majority_issues_nothing_and_prolongs_nothing(
    cluster: RunningCluster,
) -> None:
    """First while its own view still admits the node, then after a removal it did not hear of.

    Between the two is the control: with the majority back, the same manager issues and prolongs to
    the same node.
    """
    minority, *others = cluster.managers
    thief = Credential.of_node(cluster.agents[0].data_dir)
    cluster.agents[0].kill()
    with stopped(*others):
        assert cluster.call("GET", "/v1/nodes/n1", managers=[minority]).status == 200
        assert_nothing_is_issued(cluster, minority, thief)
    wait_until(lambda: is_issued(cluster, minority, thief), "the manager issues again")
    session = RawSession(minority, thief)
    session.hello()
    assert has(session, wire.Snapshot)
    session.send(wire.LeaseRequest(1))
    assert has(session, wire.Lease)
    session.close()

    with stopped(minority):
        answer = cluster.call("DELETE", "/v1/nodes/n1", managers=[others[0]])
        assert answer.status == 200, answer.body
        halt(others)
    try:
        assert_nothing_is_issued(cluster, minority, thief)
    finally:
        go_on(others)
    wait_until(lambda: ask(cluster, minority, thief) == (403, "evicted"), "the removal is heard of")


def assert_nothing_is_issued(
    cluster: RunningCluster, manager: ManagerProcess, thief: Credential
) -> None:
    """Ask by request and by session, for the value, a lease and a certificate."""
    session = RawSession(manager, thief)
    session.send(hello())
    session.send(wire.LeaseRequest(2))
    session.send(wire.Resync(()))
    session.send(wire.SigningRequest(make_csr(new_key())))
    status, code = ask(cluster, manager, thief)
    assert (status, code) != (200, "")
    assert status in {403, 503}, code
    while (message := session.receive(timeout_s=5.0)) is not None:
        assert not isinstance(message, SECRET_BEARING), message
    session.close()


def ask(
    cluster: RunningCluster, manager: ManagerProcess, credential: Credential
) -> tuple[int, str]:
    """Return status and code of an answer to a request for the secret."""
    answer = issue(cluster, "red", "held", credential, [manager])
    return answer.status, str(answer.body.get("code", ""))


def is_issued(cluster: RunningCluster, manager: ManagerProcess, credential: Credential) -> bool:
    return ask(cluster, manager, credential) == (200, "")


def has(session: RawSession, kind: type[wire.FromManager]) -> bool:
    """Return whether a message of a kind comes before the session ends."""
    while (message := session.receive()) is not None:
        if isinstance(message, kind):
            return True
    return False


def halt(managers: Sequence[ManagerProcess]) -> None:
    """Stop managers where they are, and their engines with them."""
    for manager in managers:
        for pid in family(manager):
            freeze_process(pid)


def go_on(managers: Sequence[ManagerProcess]) -> None:
    """Let them run again."""
    for manager in managers:
        for pid in family(manager):
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def stopped(*managers: ManagerProcess) -> Iterator[None]:
    """Keep managers stopped while the block lasts."""
    halt(managers)
    try:
        yield
    finally:
        go_on(managers)
