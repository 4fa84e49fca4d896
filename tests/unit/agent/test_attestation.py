"""Local sockets: the right uid, alive, one small request, one answer."""

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import agent.local_call
from agent.attestation import attested
from agent.local_call import Refused, call, short_address
from agent.local_server import MAX_CONNECTIONS
from agent.workload_socket import ControlServer, WorkloadServer
from cluster.protocol.checks import Strength
from cluster.protocol.errors import AlreadyExists, PermissionDenied
from tests.support.mounts import reachable_directory
from tests.support.node import PYTHON, Held

UID, GID = os.geteuid(), os.getegid()


@pytest.fixture
async def workload(tmp_path: Path) -> AsyncIterator[WorkloadServer]:
    held = Held({"red": {"db": b"red\x00\xff\n", "big": b"x" * 511_999}, "blue": {"db": b"blue"}})
    server = WorkloadServer(tmp_path / "run", held)
    await server.open("red", UID, GID)
    yield server
    await server.close_all()


async def ask(path: Path, operation: str, name: str | None = None) -> bytes:
    return await asyncio.to_thread(call, path, operation, name)


async def send(path: Path, raw: bytes) -> dict[str, object]:
    """Send raw bytes and return the header that comes back."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(raw)
        writer.write_eof()
        header: dict[str, object] = json.loads(await reader.readline())
        return header
    finally:
        writer.close()


async def test_values_arrive_byte_for_byte(workload: WorkloadServer) -> None:
    """Binary safe, and up to the largest secret."""
    path = workload.socket_path("red")
    assert await ask(path, "get", "db") == b"red\x00\xff\n"
    assert await ask(path, "get", "big") == b"x" * 511_999


async def test_ls_names_the_services_own_secrets(workload: WorkloadServer) -> None:
    """Names and targets, never a value."""
    rows = json.loads(await ask(workload.socket_path("red"), "ls"))
    assert [row["name"] for row in rows] == ["big", "db"]


async def test_missing_and_forbidden_are_one_answer(workload: WorkloadServer) -> None:
    """A service cannot learn which names exist elsewhere."""
    with pytest.raises(Refused) as refusal:
        await ask(workload.socket_path("red"), "get", "nope")
    assert refusal.value.code == "permission_denied"


async def test_socket_belongs_to_the_service_alone(tmp_path: Path) -> None:
    """0660 under the service's uid and gid, in a 0750 directory of its group."""
    server = WorkloadServer(tmp_path / "run", Held({"red": {}}))
    path = await server.open("red", 61_001, 61_002)
    try:
        found = path.stat()
        assert (found.st_uid, found.st_gid) == (61_001, 61_002)
        assert stat.S_IMODE(found.st_mode) == 0o660
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
        assert path.parent.stat().st_gid == 61_002
    finally:
        await server.close_all()
    assert not path.exists()


@pytest.mark.threat("T-19")
async def test_another_uid_is_refused_even_if_it_reaches_the_socket(tmp_path: Path) -> None:
    """Root is not the service either; the control is the fixture's server, which answers root."""
    server = WorkloadServer(tmp_path / "run", Held({"red": {"db": b"v"}}))
    path = await server.open("red", 61_001, 61_001)
    try:
        with pytest.raises(Refused) as refusal:
            await ask(path, "get", "db")
        assert refusal.value.code == "permission_denied"
    finally:
        await server.close_all()


UNPRIVILEGED_AGENT = """
import asyncio, concurrent.futures.thread, os, sys  # before the interpreter's home closes
from pathlib import Path
from agent.workload_socket import WorkloadServer
from tests.support.node import Held
async def main():
    os.setgroups([])
    os.setresgid(10_000, 10_000, 10_000)
    os.setresuid(10_000, 10_000, 10_000)
    path = Path(sys.argv[1])
    server = WorkloadServer(path.parent, Held({"red": {"db": b"v1"}}))
    await server.open_at(path, "red", 10_000, 61_002, None)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await server.close_all()
asyncio.run(main())
"""


async def test_an_agent_without_capabilities_serves_a_volumes_socket() -> None:
    """In a setgid directory the group gets in by the path; another uid and group do not."""
    with reachable_directory() as parent:
        directory = parent / "red"
        directory.mkdir()
        os.chown(directory, 10_000, 61_002)
        directory.chmod(0o2750)
        path = directory / "workload.sock"
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-c", UNPRIVILEGED_AGENT, str(path)]
        agent = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        assert agent.stdout is not None
        assert await agent.stdout.readline() == b"ready\n"
        try:
            assert (path.stat().st_uid, path.stat().st_gid) == (10_000, 61_002)
            assert "v1" in await asyncio.to_thread(get_as, 61_001, 61_002, path)
            assert "PermissionError" in await asyncio.to_thread(get_as, 61_003, 61_003, path)
        finally:
            await agent.communicate(b"\n")


def get_as(uid: int, gid: int, path: Path) -> str:
    """Ask for `db` as another user; return whatever that user sees."""
    identity = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    script = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        's.sendall(b\'{"v":1,"op":"get","name":"db"}\\n\')\n'
        "print(s.makefile().read())"
    )
    command = [*identity, PYTHON, "-I", "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.threat("T-16")
@pytest.mark.parametrize(
    "raw",
    [
        b"\n",
        b"{",
        b"[1]\n",
        b'{"v":2,"op":"ls"}\n',
        b'{"v":1,"op":"rm"}\n',
        b'{"v":1,"op":"get"}\n',
        b'{"v":1,"op":"get","name":["db"]}\n',
        b'{"v":1,"op":"ls"}',
        b"[" * 4_000 + b"\n",
        b"x" * 10_000 + b"\n",
        b"\xff\xfe\n",
    ],
)
async def test_malformed_requests_are_refused(workload: WorkloadServer, raw: bytes) -> None:
    """One answer, and the server lives on."""
    path = workload.socket_path("red")
    answer = await send(path, raw)
    assert (answer["ok"], answer["code"]) == (False, "malformed_message")
    assert await ask(path, "get", "db") == b"red\x00\xff\n"


@pytest.mark.threat("T-16")
async def test_a_flood_exhausts_nothing_but_itself(workload: WorkloadServer) -> None:
    """Beyond the bound of open connections the answer is `too_many_requests`."""
    path = workload.socket_path("red")
    held = [await asyncio.open_unix_connection(str(path)) for _ in range(MAX_CONNECTIONS)]
    answer = await send(path, b'{"v":1,"op":"ls"}\n')
    assert answer["code"] == "too_many_requests"
    for _, writer in held:
        writer.close()
        await writer.wait_closed()
    assert await ask(path, "get", "db")


async def test_second_agent_on_one_directory_is_refused(workload: WorkloadServer) -> None:
    """A live socket is not taken over; a dead one is replaced."""
    path = workload.socket_path("red")
    other = WorkloadServer(path.parents[2], Held({"red": {"db": b"new"}}))
    with pytest.raises(AlreadyExists, match="another agent"):
        await other.open("red", UID, GID)
    await workload.close("red")
    with socket.socket(socket.AF_UNIX) as dead, short_address(path) as address:
        dead.bind(address)
    await other.open("red", UID, GID)
    assert await ask(path, "get", "db") == b"new"
    await other.close_all()


async def test_control_socket_describes_services_to_root(tmp_path: Path) -> None:
    """0600; unknown services are named as such; `status` passes through."""
    control = ControlServer(tmp_path / "run", lambda _: None, lambda: {"services": 0})
    await control.start()
    try:
        assert stat.S_IMODE(control.path.stat().st_mode) == 0o600
        assert json.loads(await ask(control.path, "status")) == {"services": 0}
        with pytest.raises(Refused, match="not placed on this node") as refusal:
            await ask(control.path, "service", "red")
        assert refusal.value.code == "service_not_found"
    finally:
        await control.close()


CONNECT_AND_WAIT = (
    "import signal, socket, sys\n"
    "s = socket.socket(socket.AF_UNIX); s.connect('\\0' + sys.argv[1]); signal.pause()"
)


def test_a_living_peer_is_attested_and_an_ended_one_refused() -> None:
    """The same connection, before and after its process ended: the pid could be anyone's now."""
    name = f"strongroom-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{name}")
        listening.listen()
        child = subprocess.Popen([PYTHON, "-I", "-c", CONNECT_AND_WAIT, name])
        connection, _ = listening.accept()
        with connection:
            with attested(connection, frozenset({UID})) as peer:
                assert (peer.uid, peer.pid) == (UID, child.pid)
                assert peer.strength is Strength.SECURE
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            with pytest.raises(PermissionDenied), attested(connection, None):
                pass
            child.wait()
            with pytest.raises(PermissionDenied), attested(connection, None):
                pass


def test_a_uid_that_is_not_allowed_is_refused() -> None:
    """The kernel's word decides, not the path; the control is the allowed uid."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        with attested(ours, frozenset({UID})) as peer:
            assert peer.uid == UID
        with pytest.raises(PermissionDenied), attested(ours, frozenset({UID + 1})):
            pass


def test_client_needs_no_package() -> None:
    """`agent.local_call` imports the standard library alone."""
    script = "import sys, agent.local_call; print([m for m in sys.modules if 'cluster' in m])"
    root = Path(agent.local_call.__file__).parents[1]
    command = ["/usr/bin/python3", "-c", script]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
