"""Starting the storage engine a manager was founded or joined with.

The engine certificate is minted at every start into a memfd that only the member inherits: etcd
cannot read an encrypted key, and the key never has a path on a disk. It is signed by the engine CA,
which no agent and no service belongs to.
"""

import asyncio
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cryptography.hazmat.primitives.serialization import Encoding

from cluster.config import Address, Config
from cluster.engine.etcd import EtcdEngine
from cluster.engine.etcd_member import (
    ClusterState,
    EtcdMember,
    MemberSettings,
    check_version,
    find_etcd,
)
from cluster.engine.etcd_peers import PeerView, fetch_view
from cluster.engine.seam import Engine
from cluster.engine.sqlite import SqliteEngine
from cluster.engine.sqlite_file import tombstone_of
from cluster.pki.ca import Authority, issue_engine_certificate
from cluster.protocol.errors import ClusterError, Unavailable
from cluster.seal.unlock import SealFileContents
from cluster.system import Clock, Entropy

EngineKind = Literal["sqlite", "etcd"]
SQLITE_FILE: Final = "store.db"
MEMBER_DIR: Final = "member"
PROBE_S: Final = 1.0
ANSWER_S: Final = 30.0
ANSWER_LOOK_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class StartedEngine:
    """An engine that answers, and the member behind it if it is etcd."""

    engine: Engine
    etcd: EtcdEngine | None = None
    member: EtcdMember | None = None
    fds: tuple[int, ...] = ()

    async def recover_space(self) -> dict[str, object]:
        """Free space after the quota was reached, and return how full the engine is then."""
        await self.engine.recover_space()
        status = await self.engine.status()
        return {
            "size_bytes": status.size_bytes,
            "quota_bytes": status.quota_bytes,
            "alarms": list(status.alarms),
        }

    async def reachable(self) -> tuple[int, int]:
        """Return how many voters' peer listeners answer, and how many voters there are."""
        voters = await self.voters()
        return len(await answering(voters)), len(voters)

    async def voters(self) -> tuple[str, ...]:
        """Return host:port of every voter, as this member's peer listener tells it: that answers
        without a quorum too. Raises Unavailable."""
        if self.member is None:
            return ()
        return (await self.view_of(self.member.settings.peer_advertise)).voters

    async def view_of(self, peer_address: str) -> PeerView:
        """Return what the member at host:port says of its cluster. Raises Unavailable."""
        if self.member is None:
            raise Unavailable("SQLite has no members")
        settings = self.member.settings
        authority = await asyncio.to_thread(settings.peer_ca_pem.read_bytes)
        return await asyncio.to_thread(fetch_view, peer_address, settings.peer_pem, authority)

    async def stop(self) -> None:
        """Close the engine and end its member."""
        await self.engine.close()
        if self.member is not None:
            await self.member.stop()
        for fd in self.fds:
            os.close(fd)


async def answering(peer_addresses: Collection[str]) -> frozenset[str]:
    """Return those at which something listens, of where members' peers reach them (host:port)."""
    answers = await asyncio.gather(*(_answers(address) for address in peer_addresses))
    return frozenset(one for one, up in zip(peer_addresses, answers, strict=True) if up)


async def _answers(peer_address: str) -> bool:
    address = Address.parse(peer_address, 0)
    try:
        async with asyncio.timeout(PROBE_S):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def has_engine_data(config: Config) -> bool:
    """Return whether an engine left data here."""
    return config.engine_dir.exists() and any(config.engine_dir.iterdir())


def has_engine_log(config: Config) -> bool:
    """Return whether an engine began to remember something here.

    A member that was killed before it wrote its log belongs to no cluster yet: started as it is, it
    would make one of its own.
    """
    return engine_kind(config) == "sqlite" or has_member_log(config)


def has_member_log(config: Config) -> bool:
    """Return whether an etcd member began to remember something here."""
    log_dir = config.engine_dir / MEMBER_DIR / "member" / "wal"
    return any(log_dir.glob("*.wal"))


def engine_kind(config: Config) -> EngineKind:
    """Return the kind of engine that this manager runs on: what a migration left of SQLite, once it
    is complete, is not its engine any more."""
    path = config.engine_dir / SQLITE_FILE
    return "sqlite" if path.exists() and tombstone_of(path) is None else "etcd"


async def start_engine(
    config: Config,
    kind: EngineKind,
    contents: SealFileContents,
    clock: Clock,
    entropy: Entropy,
    *,
    initial_cluster: dict[str, str] | None = None,
    state: ClusterState = "new",
) -> StartedEngine:
    """Start the engine and return it; it may not have a quorum yet.

    `initial_cluster`: member name -> host:port, for a first start; existing data overrule it.
    """
    config.engine_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if kind == "sqlite":
        return StartedEngine(await SqliteEngine.open(config.engine_dir / SQLITE_FILE, clock))
    program = find_etcd(config.etcd)
    await check_version(program)
    authority = Authority.from_der(contents.engine_ca_certificate, contents.engine_ca_key.reveal())
    certificate, key = issue_engine_certificate(authority, contents.manager_id, [config.advertise])
    identity_fd = _in_memory("engine-identity", certificate + key)
    authority_fd = _in_memory("engine-ca", authority.certificate.public_bytes(Encoding.PEM))
    member = EtcdMember(
        MemberSettings(
            name=config.name,
            program=program.resolve(),
            data_dir=config.engine_dir.resolve() / MEMBER_DIR,
            run_dir=config.run_dir.resolve() / "engine",
            peer_listen=str(config.peer_listen),
            peer_advertise=config.peer_address,
            cluster_token=contents.cluster_id,
            peer_pem=_path_of(identity_fd),
            peer_ca_pem=_path_of(authority_fd),
            inherit=(identity_fd, authority_fd),
        )
    )
    await member.start(initial_cluster or {config.name: config.peer_address}, state)
    etcd = await EtcdEngine.connect(member.settings.socket_path, clock, entropy)
    return StartedEngine(etcd, etcd, member, (identity_fd, authority_fd))


async def start_private(
    config: Config,
    name: str,
    clock: Clock,
    entropy: Entropy,
    *,
    cluster_token: str = "",
    alone: bool = False,
) -> StartedEngine:
    """Start a member that no other reaches, and return it.

    `name`: of its directories, beside this manager's own member's. `cluster_token`: for a member
    without data; etcd names a new cluster after its first member's address and this. `alone`: it
    drops the other members that its data name.
    """
    program = find_etcd(config.etcd)
    await check_version(program)
    nowhere = Path(os.devnull)
    member = EtcdMember(
        MemberSettings(
            name=config.name,
            program=program.resolve(),
            data_dir=config.engine_dir.resolve() / name,
            run_dir=config.run_dir.resolve() / name,
            peer_listen="",
            peer_advertise=config.peer_address,
            cluster_token=cluster_token,
            peer_pem=nowhere,
            peer_ca_pem=nowhere,
            private=True,
            alone=alone,
        )
    )
    await member.start({config.name: config.peer_address}, "new")
    etcd = await EtcdEngine.connect(member.settings.socket_path, clock, entropy)
    return StartedEngine(etcd, etcd, member)


async def engine_answers(engine: Engine, patience_s: float = ANSWER_S) -> None:
    """Return once a new engine serves. Raises Unavailable."""
    try:
        async with asyncio.timeout(patience_s):
            while True:
                try:
                    await engine.barrier()
                except ClusterError:
                    await asyncio.sleep(ANSWER_LOOK_S)
                else:
                    return
    except TimeoutError:
        raise Unavailable("etcd does not start; see its log in the run directory") from None


def _in_memory(name: str, content: bytes) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(content)
    return fd


def _path_of(fd: int) -> Path:
    """Return the path under which the child opens a file it inherited: each opening starts at its
    beginning."""
    return Path(f"/proc/self/fd/{fd}")
