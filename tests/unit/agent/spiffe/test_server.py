"""The Workload API as the client from PyPI sees it, over a real socket, from real files."""

import asyncio
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from spiffe import SpiffeId as ClientSpiffeId
from spiffe import TrustDomain, WorkloadApiClient, X509Source
from spiffe.workloadapi.errors import FetchX509SvidError

from agent.certificates import Certificates
from agent.generations import Generations, PlainFile
from agent.spiffe import spiffe_workload_pb2 as pb
from agent.spiffe.server import HEADER, SERVICE, serve
from agent.spiffe.svid import load_svid
from cluster.pki.ca import issue_leaf, trust_anchor
from cluster.pki.csr import check_csr
from cluster.protocol import wire
from cluster.protocol.errors import AlreadyExists, InvalidRequest, Unavailable
from cluster.protocol.identity import Kind, SpiffeId
from tests.support.authority import TRUST_DOMAIN, ClusterAuthority

T = TypeVar("T")
NAME = f"spiffe://{TRUST_DOMAIN}/service/red"
RED = wire.ServiceAssignment("id-red", "red", 1000, 1000, 1, (), certificate=True)
PATIENCE_S = 30.0


class Mount:
    """A service's files, laid out and swapped by the agent's own code."""

    def __init__(self, directory: Path, cluster: ClusterAuthority) -> None:
        directory.mkdir(exist_ok=True)
        self.path = directory
        self.cluster = cluster
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self._generations = Generations(self._descriptor)
        self._schedule = Certificates(TRUST_DOMAIN, lambda: 0.5)
        self._schedule.follow([RED], 0.0)
        self._now_s = 0.0

    def renew(self) -> int:
        """Swap a new certificate in and return its serial."""
        self._now_s += 1_000.0
        (asked,) = self._schedule.due(self._now_s)
        signer = self.cluster.workload
        leaf = issue_leaf(
            signer,
            check_csr(asked.csr),
            SpiffeId(TRUST_DOMAIN, Kind.SERVICE, "red"),
            timedelta(seconds=100),
            self.cluster.clock,
            self.cluster.entropy,
            dns_names=("red",),
        )
        chain = tuple(one.public_bytes(Encoding.DER) for one in (leaf, signer.certificate))
        anchor = trust_anchor(signer, self.cluster.entropy).public_bytes(Encoding.DER)
        given = wire.ServiceCertificate(asked.service_id, chain, (anchor,), 100.0)
        files = self._schedule.accept(given, self._now_s)
        assert files is not None
        plain = [PlainFile(t, c, None, os.getegid(), 0o440) for t, c in files.items()]
        self._generations.publish(plain, b"", os.getegid(), 0o750)
        return leaf.serial_number

    def swap_without_renewal(self) -> None:
        """Publish the set anew, as a rotation of a secret beside it does."""
        from agent.certificate_files import read_certificate

        files = read_certificate(self.path)
        plain = [PlainFile(t, c, None, os.getegid(), 0o440) for t, c in files.items()]
        self._generations.publish(plain, b"", os.getegid(), 0o750)

    def clear(self) -> None:
        self._generations.clear()

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    made = Mount(tmp_path / "mount", ClusterAuthority())
    yield made
    made.close()


@pytest.fixture
async def socket_path(tmp_path: Path, mount: Mount) -> AsyncIterator[Path]:
    """A server on the mount, in the test's own loop."""
    path = tmp_path / "spiffe.sock"
    stop = asyncio.Event()
    running = asyncio.create_task(serve(mount.path, path, stop))
    async with asyncio.timeout(PATIENCE_S):
        while not path.exists():  # noqa: ASYNC110  # the server's own sign of life
            await asyncio.sleep(0.01)
    yield path
    stop.set()
    await asyncio.wait_for(running, PATIENCE_S)


def svids(
    channel: grpc.aio.Channel, method: str = "FetchX509SVID"
) -> grpc.aio.UnaryStreamMultiCallable[bytes, pb.X509SVIDResponse]:
    """Return a bare call, without what a client of the standard adds."""
    return channel.unary_stream(
        f"/{SERVICE}/{method}", response_deserializer=pb.X509SVIDResponse.FromString
    )


async def blocking(call: Callable[[], T]) -> T:
    """Run the client, which blocks, beside the loop."""
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.to_thread(call)


async def test_client_fetches_the_svid_with_its_key_and_bundle(
    mount: Mount, socket_path: Path
) -> None:
    serial = mount.renew()

    def fetch() -> None:
        with WorkloadApiClient(f"unix://{socket_path}") as client:
            svid = client.fetch_x509_svid()
            assert str(svid.spiffe_id) == NAME
            assert svid.leaf.serial_number == serial
            assert svid.leaf.public_key() == svid.private_key.public_key()
            assert len(svid.cert_chain) == 2
            bundles = client.fetch_x509_bundles()
            bundle = bundles.get_bundle_for_trust_domain(TrustDomain(TRUST_DOMAIN))
            assert bundle is not None
            (anchor,) = bundle.x509_authorities
            svid.leaf.verify_directly_issued_by(anchor)

    await blocking(fetch)


async def test_source_follows_each_renewal(mount: Mount, socket_path: Path) -> None:
    """And nothing else: a swap that leaves the certificate is no news."""
    first = mount.renew()
    seen: list[int] = []
    news = threading.Semaphore(0)

    def follow() -> None:
        with X509Source(socket_path=f"unix://{socket_path}", timeout_in_seconds=20) as source:
            seen.append(source.get_x509_context().default_svid.leaf.serial_number)

            def note() -> None:
                seen.append(source.get_x509_context().default_svid.leaf.serial_number)
                news.release()

            source.subscribe_for_updates(note)
            mount.swap_without_renewal()
            for _ in range(2):
                expected = mount.renew()
                assert news.acquire(timeout=PATIENCE_S)
                assert source.get_x509_context().default_svid.leaf.serial_number == expected
            assert source.get_x509_context().default_svid.spiffe_id == ClientSpiffeId(NAME)

    await blocking(follow)
    assert seen[0] == first
    assert len(seen) == len(set(seen)) == 3


async def test_service_without_a_certificate_has_no_identity(socket_path: Path) -> None:
    def fetch() -> str:
        with (
            WorkloadApiClient(f"unix://{socket_path}") as client,
            pytest.raises(FetchX509SvidError) as refused,
        ):
            client.fetch_x509_svid()
        return str(refused.value)

    assert "no identity issued" in await blocking(fetch)


async def test_stream_ends_when_the_identity_is_taken_away(mount: Mount, socket_path: Path) -> None:
    mount.renew()
    async with grpc.aio.insecure_channel(f"unix:{socket_path}") as channel:
        stream = aiter(svids(channel)(b"", metadata=(HEADER,), timeout=PATIENCE_S))
        response = await anext(stream)
        assert [one.spiffe_id for one in response.svids] == [NAME]
        mount.clear()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await anext(stream)
        assert ended.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.threat("T-40")
@pytest.mark.parametrize("method", ["FetchX509SVID", "FetchX509Bundles"])
async def test_call_without_the_header_is_refused(
    mount: Mount, socket_path: Path, method: str
) -> None:
    mount.renew()
    async with grpc.aio.insecure_channel(f"unix:{socket_path}") as channel:
        call = svids(channel, method)
        for metadata in ((), ((HEADER[0], "false"),)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await anext(aiter(call(b"", metadata=metadata, timeout=PATIENCE_S)))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await anext(aiter(call(b"", metadata=(HEADER,), timeout=PATIENCE_S)))


@pytest.mark.parametrize("method", ["FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID"])
async def test_jwt_methods_are_unimplemented(socket_path: Path, method: str) -> None:
    async with grpc.aio.insecure_channel(f"unix:{socket_path}") as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        call = channel.unary_unary(f"/{SERVICE}/{method}")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"", metadata=(HEADER,), timeout=PATIENCE_S)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_socket_is_its_owners_alone(socket_path: Path) -> None:
    found = socket_path.stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600


async def test_socket_left_behind_by_a_killed_process_is_taken(
    mount: Mount, tmp_path: Path
) -> None:
    path, stop = tmp_path / "spiffe.sock", asyncio.Event()
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()
    mount.renew()
    running = asyncio.create_task(serve(mount.path, path, stop))

    def fetch() -> str:
        with X509Source(socket_path=f"unix://{path}", timeout_in_seconds=20) as source:
            return str(source.get_x509_context().default_svid.spiffe_id)

    assert await blocking(fetch) == NAME
    stop.set()
    await asyncio.wait_for(running, PATIENCE_S)


async def test_second_server_does_not_take_the_socket(mount: Mount, socket_path: Path) -> None:
    with pytest.raises(AlreadyExists):
        await serve(mount.path, socket_path, asyncio.Event())


async def test_place_that_cannot_be_bound_is_named(mount: Mount, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nowhere"):
        await serve(mount.path, tmp_path / "nowhere" / "spiffe.sock", asyncio.Event())


def test_key_is_not_shown(mount: Mount) -> None:
    mount.renew()
    svid = load_svid(mount.path)
    assert str(svid.key) not in repr(svid)
    assert str(svid.identity) == NAME


def test_set_that_cannot_be_read_is_refused(mount: Mount) -> None:
    mount.renew()
    generation = mount.path / (mount.path / "..data").readlink()
    (generation / "tls.crt").chmod(0o600)
    (generation / "tls.crt").write_bytes(b"nothing")
    with pytest.raises(InvalidRequest):
        load_svid(mount.path)
