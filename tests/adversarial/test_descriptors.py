"""What a peer of the agent's local socket can make it keep, and what a caller prints of half."""

import asyncio
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from agent.local_server import Access, LocalServer
from cluster.protocol.errors import NotFound
from cluster.protocol.secret_bytes import SecretBytes
from tests.support.running import SCRIPTS

VALUE = b"c4n4ry-half-a-value"


def answer(request: Mapping[str, object]) -> SecretBytes:
    if request.get("op") != "get":
        raise NotFound
    return SecretBytes(VALUE)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def visit(path: Path, sent: bytes, *, listens: bool) -> None:
    """Connect, send, and leave with or without hearing the answer."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(path))
        peer.sendall(sent)
        if listens:
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(4096):
                pass


@pytest.mark.threat("T-46")
@pytest.mark.parametrize("peers", [None, frozenset({0}), frozenset({4_294_967_000})])
async def test_local_socket_keeps_no_descriptor_of_a_peer(
    tmp_path: Path, peers: frozenset[int] | None
) -> None:
    """Answered, refused, malformed, silent or gone at once: each peer costs nothing afterwards."""
    path = tmp_path / "s"
    server = LocalServer(path, Access(os.geteuid(), os.getegid(), 0o600, peers), answer)
    await server.start()
    try:
        before = descriptors()
        for sent in (b'{"v":1,"op":"get","name":"x"}\n', b'{"v":1,"op":"no"}\n', b"{\n", b"", b"{"):
            for listens in (True, False):
                for _ in range(20):
                    await asyncio.to_thread(visit, path, sent, listens=listens)
        async with asyncio.timeout(30):
            while descriptors() > before:  # noqa: ASYNC110  # nothing signals it
                await asyncio.sleep(0.01)
    finally:
        await server.close()


@pytest.fixture
def half(tmp_path: Path) -> Iterator[Path]:
    """Give a socket whose server dies in the middle of a value."""
    path = tmp_path / "half.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            for whole in (False, True):
                connection, _ = listening.accept()
                with connection:
                    connection.recv(4096)
                    header = b'{"v":1,"ok":true,"size":%d}\n' % len(VALUE)
                    connection.sendall(header + (VALUE if whole else VALUE[:10]))

        serving = threading.Thread(target=serve)
        serving.start()
        yield path
        serving.join()


@pytest.mark.threat("T-18")
def test_answer_that_is_cut_short_is_not_printed(half: Path) -> None:
    """Nothing of it, on either stream; a whole one is, which is the control."""
    command = [str(SCRIPTS / "strongroom-agent"), "get", "--socket", str(half), "db"]
    cut, whole = (subprocess.run(command, capture_output=True, check=False) for _ in range(2))
    assert cut.returncode != 0
    assert cut.stdout == b""
    assert VALUE[:6] not in cut.stderr
    assert (whole.returncode, whole.stdout) == (0, VALUE)
