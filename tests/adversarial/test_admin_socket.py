"""The admin socket and a locked manager: who gets in, and what there is to get.

The seal file needs the unlock key, the socket needs root, and a locked manager is nothing else.
"""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.protocol.errors import PermissionDenied
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.unlock import UnlockKey, open_seal_file
from cluster.system import SystemEntropy
from tests.support.running import ManagerProcess, RunningCluster, running_cluster, wait_until

CALL = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(30)
s.connect(sys.argv[1])
s.sendall(b"GET /admin/status HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n")
print(s.recv(100).decode())
"""
NOBODY = 65_534


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    with running_cluster(agents=1) as cluster:
        cluster.create_secret("held", b"held-value-77ab")
        cluster.create_service("red", 20_003, "held")
        yield cluster


def call_as(uid: int, path: Path) -> subprocess.CompletedProcess[str]:
    """Call the admin socket as some user of the manager's machine."""
    identity = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    command = [*identity, "/usr/bin/python3", "-I", "-c", CALL, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.threat("T-22")
@pytest.mark.needs_root
@pytest.mark.control("T-22", without="cluster/sockets.py::bind_admin")
def test_admin_socket_is_roots(cluster: RunningCluster) -> None:
    """Directory and socket each keep another user out; with both open he would be answered."""
    path = cluster.managers[0].admin_socket
    modes = [(one, one.stat().st_mode & 0o777) for one in (path.parent, path)]
    assert [mode for _, mode in modes] == [0o700, 0o600]
    assert all(one.stat().st_uid == 0 for one, _ in modes)
    try:
        for opened in ((), (path.parent,), (path,)):
            for one in opened:
                one.chmod(0o777)
            assert "PermissionError" in call_as(NOBODY, path).stderr
            for one, mode in modes:
                one.chmod(mode)
        for one, _ in modes:
            one.chmod(0o777)
        assert "200 OK" in call_as(NOBODY, path).stdout
    finally:
        for one, mode in modes:
            one.chmod(mode)
    assert "200 OK" in call_as(0, path).stdout


@pytest.mark.threat("T-22")
@pytest.mark.needs_root
def test_a_managers_files_are_roots(cluster: RunningCluster) -> None:
    """Nothing below the data and the run directory is open to anybody else."""
    manager = cluster.managers[0]
    for directory in (manager.base / "data", manager.base / "run"):
        assert directory.stat().st_mode & 0o777 == 0o700
        identity = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        done = subprocess.run([*identity, "ls", directory], capture_output=True, check=False)
        assert done.returncode != 0
    listed = subprocess.run(["ls", manager.base / "data"], capture_output=True, check=True)
    assert listed.stdout


def answers(manager: ManagerProcess) -> list[int]:
    """Return which of the manager's ports take a connection."""
    found = []
    for port in (manager.api_port, manager.join_port, manager.peer_port):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            continue
        found.append(port)
    return found


@pytest.mark.threat("T-24")
def test_restarted_manager_serves_nothing_until_it_is_unlocked(cluster: RunningCluster) -> None:
    manager = cluster.managers[0]
    assert answers(manager) == [manager.api_port, manager.join_port]
    manager.kill()
    manager.start()
    assert manager.state() == "locked"
    assert answers(manager) == []
    status = manager.admin("GET", "/admin/status").body
    assert "cluster" not in status
    for path, body in (
        ("/admin/operator-renew", {"name": "admin", "csr": "AAAA"}),
        ("/admin/init", _founding(str(manager.admin("POST", "/admin/unlock-key").body))),
    ):
        refused = manager.admin("POST", path, body)
        assert refused.status >= 400, refused.body
    wrong = UnlockKey.generate(SystemEntropy()).text().reveal().decode()
    for key in (wrong, "", cluster.unlock_key[:-1], cluster.unlock_key + "a", "x" * 10_000):
        steps = manager.admin_steps("/admin/unlock", {"unlock_key": key})
        assert "error" in steps[-1]
        assert manager.state() == "locked"
    assert answers(manager) == []
    # The agent keeps what it has, and the right key brings everything back.
    assert cluster.agents[0].read("red", "held") == b"held-value-77ab"
    manager.unlock(cluster.unlock_key)
    wait_until(lambda: cluster.node("n1")["state"] == "ready", "the agent is back")


def _founding(answer: str) -> dict[str, str]:
    key = answer.split("'")[3]
    return {
        "unlock_key": key,
        "engine": "sqlite",
        "trust_domain": "other",
        "operator": "eve",
        "csr": "AAAA",
    }


@pytest.mark.threat("T-24")
def test_stolen_data_directory_opens_with_the_unlock_key_alone(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    """A copy of everything a manager keeps on its disk, without the key and with it."""
    shutil.copytree(cluster.managers[0].base / "data", tmp_path / "data")
    seal = tmp_path / "data" / "seal"
    with pytest.raises(PermissionDenied):
        open_seal_file(seal, UnlockKey.generate(SystemEntropy()))
    right = UnlockKey.parse(SecretBytes(cluster.unlock_key.encode()))
    contents, _ = open_seal_file(seal, right)
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert len(everything) > 10_000
    for secret in (contents.root_key, contents.tls_key, contents.engine_ca_key, right.key):
        assert secret.reveal() not in everything
    assert cluster.unlock_key.encode() not in everything
    # The control: the search finds what is there.
    assert seal.read_bytes()[:64] in everything
