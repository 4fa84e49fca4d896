"""Real etcd members on loopback, one or three, with a peer CA of their own, for tests to kill."""

import asyncio
import contextlib
import ipaddress
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.engine.etcd import EtcdEngine
from cluster.engine.etcd_member import PEER_NAME, EtcdMember, MemberSettings
from cluster.protocol.errors import ClusterError
from cluster.system import SystemClock, SystemEntropy
from tests.support.frozen import freeze_process

TOOLS = Path(__file__).resolve().parents[2] / ".tools"
START_PATIENCE_S = 60.0


def etcd_binaries() -> list[Path]:
    """Return every etcd program at hand: those `make tools` unpacked, else the one on PATH."""
    unpacked = sorted(TOOLS.glob("etcd-*/usr/bin/etcd"))
    on_path = shutil.which("etcd")
    return unpacked or ([Path(on_path)] if on_path else [])


def need_etcd() -> Path:
    """Return one etcd program, or skip the test (conftest fails skips in CI)."""
    found = etcd_binaries()
    if not found:
        pytest.skip("no etcd program; run `make tools`")
    return found[0]


def binary_params() -> list[object]:
    """Return one pytest parameter for each etcd version at hand, or one that skips.

    The first runs with every `make test`, the others with the slow tests.
    """
    found = etcd_binaries()
    if not found:
        skip = pytest.mark.skip(reason="no etcd program; run `make tools`")
        return [pytest.param(Path("etcd"), id="etcd", marks=skip)]
    return [
        pytest.param(program, id=_version_name(program), marks=[pytest.mark.slow] if at else [])
        for at, program in enumerate(found)
    ]


def _version_name(program: Path) -> str:
    return program.parts[-4] if TOOLS in program.parents else "etcd"


class PeerCa:
    """A certificate authority for peers, and for strangers that should not get in."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "engine test CA")])
        builder = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.certificate = builder.sign(self._key, hashes.SHA256())

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )

    def write_ca(self, path: Path) -> Path:
        """Write the CA's certificate."""
        path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return path

    def write_leaf(self, path: Path, common_name: str = PEER_NAME) -> Path:
        """Write a certificate and its key into one file of mode 0600."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        loopback = x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            self._builder(subject, key)
            .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        path.touch(mode=0o600)
        path.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return path


def free_address() -> str:
    """Return a loopback host:port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@dataclass(slots=True)
class RunningMember:
    """A member and an engine on it."""

    member: EtcdMember
    engine: EtcdEngine
    initial: dict[str, str]
    """Name -> host:port, as the cluster began (or as it was when this one joined)."""

    @property
    def name(self) -> str:
        """The member's name."""
        return self.member.settings.name

    async def kill(self) -> None:
        """Kill the child and keep it down: its supervision ends with it."""
        pid = self.member.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await self.member.stop()

    async def restart(self) -> None:
        """Start the member again on the same data; the engine finds it by itself."""
        self.member = EtcdMember(self.member.settings)
        await self.member.start(self.initial, "existing")

    def freeze(self) -> None:
        """Stop the child in the middle of whatever it does."""
        assert self.member.pid is not None
        freeze_process(self.member.pid)

    def thaw(self) -> None:
        """Let the child go on."""
        assert self.member.pid is not None
        os.kill(self.member.pid, signal.SIGCONT)

    async def end(self) -> None:
        """Close the engine and kill the member, which stops slowly without a majority."""
        await self.engine.close()
        if self.member.pid is not None:
            os.kill(self.member.pid, signal.SIGKILL)
        await self.member.stop()


def member_settings(
    directory: Path, ca: PeerCa, program: Path, name: str, address: str, quota_bytes: int = 1 << 30
) -> MemberSettings:
    """Return settings for a member under `directory`."""
    return MemberSettings(
        name=name,
        program=program,
        data_dir=directory / f"{name}.data",
        run_dir=directory / f"{name}.run",
        peer_listen=address,
        peer_advertise=address,
        cluster_token="test-cluster",
        peer_pem=ca.write_leaf(directory / f"{name}.pem"),
        peer_ca_pem=ca.write_ca(directory / "peer-ca.pem"),
        quota_bytes=quota_bytes,
    )


async def start_member(
    settings: MemberSettings, initial: dict[str, str], state: str = "new"
) -> RunningMember:
    """Start a member and connect to it, without waiting for a quorum."""
    member = EtcdMember(settings)
    await member.start(initial, "new" if state == "new" else "existing")
    engine = await EtcdEngine.connect(
        settings.socket_path, SystemClock(), SystemEntropy(), quota_bytes=settings.quota_bytes
    )
    return RunningMember(member, engine, initial)


async def wait_until_serving(engine: EtcdEngine) -> None:
    """Return once a linearizable read is answered."""
    async with asyncio.timeout(START_PATIENCE_S):
        while True:
            with contextlib.suppress(ClusterError):
                await engine.barrier()
                return
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def etcd_cluster(
    directory: Path,
    size: int = 1,
    *,
    program: Path | None = None,
    quota_bytes: int = 1 << 30,
    ca: PeerCa | None = None,
) -> AsyncIterator[list[RunningMember]]:
    """Run `size` members m1, m2 ... that serve; stop them all at the end."""
    authority = ca or PeerCa()
    initial = {f"m{number + 1}": free_address() for number in range(size)}
    members: list[RunningMember] = []
    try:
        for name, address in initial.items():
            chosen = program or need_etcd()
            settings = member_settings(directory, authority, chosen, name, address, quota_bytes)
            members.append(await start_member(settings, initial))
        for member in members:
            await wait_until_serving(member.engine)
        yield members
    finally:
        await asyncio.gather(*(member.end() for member in members))


async def leader_of(members: list[RunningMember]) -> RunningMember:
    """Return the leading member, as the first one that answers sees it."""
    async with asyncio.timeout(START_PATIENCE_S):
        while True:
            for member in members:
                with contextlib.suppress(ClusterError):
                    status = await member.engine.status()
                    for candidate in members:
                        if candidate.name == status.leader:
                            return candidate
            await asyncio.sleep(0.05)
