"""Controls of what protects a node's files, and of what its agent believes."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from agent import health_checks, mounts
from agent.generations import Generations
from agent.holdings import Holdings, Verdict
from agent.lease import Grant, Lease
from agent.mount_proof import MountProof
from agent.mounts import File, ServiceMount
from agent.session import Session
from agent.spiffe import server
from cluster.hook.directory import HookDirectory
from cluster.pki import node_envelope
from cluster.pki.node_envelope import NodeKeys, Recipient, staged
from cluster.protocol import wire
from cluster.protocol.checks import Check, Strength
from cluster.protocol.errors import (
    HookFailed,
    InvalidName,
    MountRefused,
    OpenFailed,
)
from cluster.protocol.loopback import LoopbackUrl
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.wire import HealthCheck, RevisionPair, VersionKey
from cluster.system import SystemEntropy
from tests.simulation.naive_manager import service
from tests.simulation.world import FACTS
from tests.support.mounts import (
    MEMORY_ONLY,
    mount_filesystem,
    mounts_taken_away,
    reachable_directory,
)
from tests.unit.agent.test_health_checks import found_by
from tests.unit.agent.test_session import opened, revision
from tests.unit.hook.test_program import CALL

OWNED = f"{MEMORY_ONLY},mode=2750,gid=61002"
VALUE = b"canary-value"


@pytest.fixture
def root() -> Iterator[Path]:
    with reachable_directory() as parent, mounts_taken_away(parent / "volumes") as directory:
        yield directory


def believed(_directory: int, path: str) -> MountProof:
    """A proof that looks at nothing."""
    return MountProof(path, (Check("nothing", Strength.SECURE, ""),))


def file(target: str) -> File:
    return File(target, SecretBytes(VALUE), None, None)


@pytest.mark.needs_root
@pytest.mark.control("T-15", without="cluster/protocol/ids.py::check_target")
def test_target_stays_in_its_directory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check a target with `..` leaves something outside of the service's mount."""
    mount = ServiceMount.given(mount_filesystem(root / "red", "tmpfs", OWNED), "red")
    with pytest.raises(InvalidName):
        mount.publish([file("../leak")])
    assert os.listdir(root) == ["red"]  # noqa: PTH208  # a broken link is no path that exists
    monkeypatch.setattr(mounts, "check_target", lambda target: target)
    mount.publish([file("../leak")])
    assert sorted(os.listdir(root)) == ["leak", "red"]  # noqa: PTH208
    (root / "leak").unlink()


@pytest.mark.needs_root
@pytest.mark.control("T-20", without="agent/mount_proof.py::prove")
def test_value_reaches_no_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the proof a plain directory takes the files."""
    (root / "red").mkdir()
    with pytest.raises(MountRefused):
        ServiceMount.given(root / "red", "red")
    monkeypatch.setattr(mounts, "prove", believed)
    ServiceMount.given(root / "red", "red").publish([file("db")])
    assert (root / "red" / "db").read_bytes() == VALUE
    (root / "red").joinpath("db").unlink()


@pytest.mark.needs_root
@pytest.mark.control("T-21", without="agent/mount_proof.py::prove")
def test_swappable_memory_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mount_filesystem(
        root / "red", "tmpfs", "size=256k,nosuid,nodev,noexec,mode=2750,gid=61002"
    )
    monkeypatch.setattr("agent.linux.active_swaps", lambda: ("/dev/sda2",))
    with pytest.raises(MountRefused, match="swapped out"):
        ServiceMount.given(path, "red")
    monkeypatch.setattr(mounts, "prove", believed)
    ServiceMount.given(path, "red").publish([file("db")])
    assert (path / "db").read_bytes() == VALUE


@pytest.mark.needs_root
@pytest.mark.control("T-25", without="agent/generations.py::Generations")
def test_planted_file_passes_for_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the look at what is there, an image's file stays in the agent's tmpfs."""
    path = mount_filesystem(root / "red", "tmpfs", OWNED)
    (path / "db").write_bytes(b"planted")
    with pytest.raises(MountRefused, match="unknown entries"):
        ServiceMount.given(path, "red")
    monkeypatch.setattr(Generations, "_is_ours", lambda *_: True)
    monkeypatch.setattr(Generations, "_remove_links", lambda *_, **__: None)
    ServiceMount.given(path, "red")
    assert (path / "db").read_bytes() == b"planted"


@pytest.mark.control("T-26", without="agent/holdings.py::Holdings")
def test_older_state_is_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the judgement, the state of a day before is put in place."""

    def applied() -> bool:
        session = opened(Session(FACTS, revision(5), (), None, lambda: 0.5))
        todo = session.on_message(1, wire.Snapshot(revision(4), ()), 0.0)
        return "Apply" in {type(effect).__name__ for effect in todo}

    assert not applied()
    monkeypatch.setattr(Holdings, "judge", lambda *_: Verdict.CURRENT)
    assert applied()


@pytest.mark.control("T-33", without="agent/lease.py::Lease")
def test_file_goes_with_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the count a node that is cut off keeps the file for ever."""

    def lapses() -> bool:
        held = service("red", ("a", 1), wipe=True)
        session = Session(
            FACTS, RevisionPair(1, "first", 1), (held,), Grant(0.0, 60.0), lambda: 0.5
        )
        assert session.on_tick(59.0) == []
        return bool(session.on_tick(60.0))

    assert lapses()
    monkeypatch.setattr(Lease, "covers", lambda *_: True)
    assert not lapses()


@pytest.mark.control("T-35", without="cluster/protocol/loopback.py::parse_loopback_url")
async def test_health_check_leaves_no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the one reading of URLs, whoever the URL names is asked by the node."""
    asked: list[bytes] = []

    async def on_call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    elsewhere = await asyncio.start_server(on_call, "127.0.0.9", 0)
    port = elsewhere.sockets[0].getsockname()[1]
    check = HealthCheck("http", (), f"http://127.0.0.9:{port}/up", 0.5, 30.0, 1)
    assert await found_by(check) == (False, "the url is not one of loopback")
    assert asked == []
    monkeypatch.setattr(health_checks, "parse_loopback_url", at_its_word)
    assert await found_by(check) == (True, "")
    assert asked == [b"GET /up HTTP/1.1\r\n"]
    elsewhere.close()


def at_its_word(url: str) -> LoopbackUrl:
    """Take any URL apart."""
    parts = urlsplit(url)
    return LoopbackUrl((str(parts.hostname),), int(parts.port or 80), parts.netloc, parts.path)


@pytest.mark.control("T-32", without="cluster/pki/node_envelope.py::NodeKeys")
def test_recorded_value_opens_in_no_other_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the session bound in, what was recorded opens again."""
    key = VersionKey("a", 1)

    def replayed() -> bytes:
        keys = NodeKeys.generate("n1")
        recipient = Recipient.choose(keys.public_keys(), "n1", "recorded")
        sealed = recipient.seal([(key, SecretBytes(VALUE))], SystemEntropy())
        (value,) = staged(sealed, recipient.suite, "another").values()
        with keys.opening() as open_value:
            return open_value(value).reveal()

    with pytest.raises(OpenFailed):
        replayed()
    monkeypatch.setattr(node_envelope, "_info", lambda *_: b"the same for all")
    assert replayed() == VALUE


@pytest.mark.needs_root
@pytest.mark.control("T-37", without="cluster/hook/ownership.py::check_owned")
async def test_planted_hook_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the look at whose it is, a file that anybody may write is given the credential."""
    directory, stolen = tmp_path / "hooks", tmp_path / "stolen"
    directory.mkdir(mode=0o755)
    planted = directory / "party"
    planted.write_text(f"#!/bin/sh\ncat > {stolen}\n")
    planted.chmod(0o777)
    hooks = HookDirectory(directory, timeout_s=10.0)
    with pytest.raises(HookFailed, match="writable by others"):
        await hooks.call("party", CALL)
    assert not stolen.exists()
    monkeypatch.setattr("cluster.hook.directory.check_owned", lambda path, _: path.lstat())
    await hooks.call("party", CALL)
    assert stolen.read_bytes()


OWNER, STRANGER = 61_002, 61_003
CONNECTING = """
import os, socket, sys, time
os.setresuid(*[int(sys.argv[1])] * 3)
for _ in range(600):
    try:
        socket.socket(socket.AF_UNIX).connect(sys.argv[2])
    except ConnectionRefusedError:  # not listening yet
        time.sleep(0.05)
    except PermissionError:
        sys.exit("closed")
    else:
        sys.exit("open")
"""


@pytest.mark.needs_root
@pytest.mark.control("T-40", without="agent/spiffe/server.py::serve")
async def test_workload_api_is_its_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the mode that it is bound with, any uid that reaches the socket's directory connects.

    Nobody may be let in by the directory alone: here every uid passes it.
    """

    async def doors(path: Path) -> list[str]:
        stop, bound = asyncio.Event(), asyncio.Event()

        def give() -> None:
            os.chown(path, OWNER, OWNER)
            bound.set()

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(server.serve(tmp_path, path, stop, give))
            await bound.wait()
            found = [await asyncio.to_thread(connecting, uid, path) for uid in (OWNER, STRANGER)]
            stop.set()
        return found

    before = os.umask(0)
    try:
        with reachable_directory() as directory:
            assert await doors(directory / "a.sock") == ["open", "closed"]
            monkeypatch.setattr(server, "os", SimpleNamespace(umask=lambda _mask: 0))
            assert await doors(directory / "b.sock") == ["open", "open"]
    finally:
        os.umask(before)


def connecting(uid: int, path: Path) -> str:
    """Connect to a socket as a uid without rights."""
    command = [sys.executable, "-I", "-c", CONNECTING, str(uid), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stderr.strip()
