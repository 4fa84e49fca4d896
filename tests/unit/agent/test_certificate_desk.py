"""Certificates beside secrets, on real mounts: one set, whole or not at all, whatever fails."""

import asyncio
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent import local_call
from agent.certificate_desk import CertificateDesk
from agent.config import AgentConfig
from agent.mount_table import MountTable
from agent.mounts import MountKind
from cluster.pki.ca import issue_leaf, trust_anchor
from cluster.pki.csr import check_csr
from cluster.protocol import wire
from cluster.protocol.identity import Kind, SpiffeId
from cluster.system import SystemClock
from tests.simulation.naive_manager import History, service
from tests.simulation.running_agent import enrol, running, until
from tests.simulation.served_manager import ServedManager, served
from tests.support.authority import ClusterAuthority
from tests.support.clock import ManualClock
from tests.support.mounts import (
    MEMORY_ONLY,
    mount_filesystem,
    mounts_taken_away,
    reachable_directory,
)

pytestmark = pytest.mark.needs_root

RED = "id-red"
LIFE_S = 3_600.0


class CertifyingManager(ServedManager):
    """A naive manager that signs for services, or refuses to."""

    refuses: str = ""
    asked: int = 0

    def _answers(self, link: int, message: wire.FromAgent) -> list[wire.FromManager]:
        if not isinstance(message, wire.ServiceSigningRequest):
            return super()._answers(link, message)
        self.asked += 1
        if self.refuses:
            return [wire.ServiceCertificateRefused(message.service_id, self.refuses)]
        signer = self.authority.workload
        leaf = issue_leaf(
            signer,
            check_csr(message.csr),
            SpiffeId(self.authority.trust_domain, Kind.SERVICE, "red"),
            timedelta(seconds=LIFE_S),
            self.issues_at,
            self.authority.entropy,
        )
        anchor = trust_anchor(signer, self.authority.entropy)
        chain = tuple(one.public_bytes(Encoding.DER) for one in (leaf, signer.certificate))
        anchors = (anchor.public_bytes(Encoding.DER),)
        return [wire.ServiceCertificate(message.service_id, chain, anchors, LIFE_S)]


def red(*files: tuple[str, int], uid: int = 61001, **fields: object) -> wire.ServiceAssignment:
    made = service("red", *files, uid=uid)
    return msgspec.structs.replace(made, **{"certificate": True, **fields})


@pytest.fixture
def config(tmp_path: Path) -> Iterator[AgentConfig]:
    with reachable_directory() as run_dir, mounts_taken_away(run_dir):
        yield AgentConfig(data_dir=tmp_path / "data", run_dir=run_dir)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(SystemClock().now())


@pytest.fixture
def history() -> History:
    made = History()
    made.commit({RED: red(("a", 1))})
    return made


@pytest.fixture
async def manager(history: History, config: AgentConfig) -> AsyncIterator[CertifyingManager]:
    made = CertifyingManager("m1", history, ClusterAuthority())
    made.core.lease_s = 86_400.0
    async with served(made):
        enrol(config, made)
        yield made


def read(config: AgentConfig, target: str) -> bytes | None:
    try:
        return (config.mount_root / "red" / target).read_bytes()
    except FileNotFoundError:
        return None


def result(manager: ServedManager) -> wire.ServiceResult | None:
    """Return what the agent reported last of red."""
    for ack in reversed(manager.core.acks):
        for one in ack.services:
            if one.service_id == RED:
                return one
    return None


async def status(config: AgentConfig) -> bytes:
    """Return what the agent tells root."""
    return await asyncio.to_thread(local_call.call, config.run_dir / "control.sock", "status")


async def until_status(config: AgentConfig, true: Callable[[bytes], bool]) -> None:
    """Wait until what the agent tells root is so."""
    async with asyncio.timeout(30):
        while not true(await status(config)):  # noqa: ASYNC110  # it tells who asks
            await asyncio.sleep(0.05)


async def pass_until(clock: ManualClock, true: Callable[[], bool]) -> None:
    """Let time pass, a few seconds at a glance, until something holds."""
    async with asyncio.timeout(30):
        while not true():
            clock.advance(5.0)
            await asyncio.sleep(0.05)


async def commit(manager: ServedManager, history: History, one: wire.ServiceAssignment) -> None:
    history.commit({RED: one})
    await manager.push()


async def mounted(config: AgentConfig, manager: ServedManager) -> None:
    await until(lambda: (found := result(manager)) is not None and found.error == "")
    assert read(config, "tls.key")


async def test_first_set_waits_for_its_certificate(
    config: AgentConfig, manager: CertifyingManager, clock: ManualClock
) -> None:
    """Nothing is there before; the managers hear why once it lasts."""
    manager.refuses = "conflict"
    async with running(config, clock):
        await until(lambda: manager.asked == 1)
        assert read(config, "a") is None
        await pass_until(
            clock, lambda: (found := result(manager)) is not None and "conflict" in found.error
        )
        assert read(config, "a") is None
        manager.refuses = ""
        await pass_until(clock, lambda: read(config, "tls.key") is not None)
        await mounted(config, manager)
        assert read(config, "a") == b"value of a version 1"


async def test_failed_renewal_leaves_the_set_and_is_made_up_for(
    config: AgentConfig, manager: CertifyingManager, clock: ManualClock
) -> None:
    async with running(config, clock):
        await mounted(config, manager)
        first = read(config, "tls.key")
        manager.refuses = "unavailable"
        clock.advance(0.9 * LIFE_S)
        await pass_until(clock, lambda: manager.asked >= 4)
        assert read(config, "tls.key") == first
        assert b"no certificate for service red: unavailable" in await status(config)
        manager.refuses = ""
        await pass_until(clock, lambda: read(config, "tls.key") != first)
        assert b"no certificate" not in await status(config)
        assert read(config, "a") == b"value of a version 1"


async def test_no_fault_is_left_of_a_service_that_wants_no_certificate_any_more(
    config: AgentConfig, manager: CertifyingManager, clock: ManualClock, history: History
) -> None:
    async with running(config, clock):
        await mounted(config, manager)
        manager.refuses = "permission_denied"
        clock.advance(0.9 * LIFE_S)
        await pass_until(clock, lambda: manager.asked >= 4)
        await until_status(config, lambda told: b"no certificate for service red" in told)
        await commit(manager, history, red(("a", 1), spec_number=2, certificate=False))
        await until(lambda: read(config, "tls.key") is None)
        await until_status(config, lambda told: b"no certificate" not in told)


async def test_silence_is_a_fault_too_until_the_node_is_wiped(config: AgentConfig) -> None:
    """Requests that no manager answers are counted as those that one refuses."""
    table = MountTable(config)
    desk = CertificateDesk("lab.example", table, lambda: 0.0)
    desk.follow([red(("a", 1))], 0.0)
    found = []
    for now_s in (0.0, 100.0, 200.0):
        assert len(desk.due(now_s)) == 1
        found.append(list(table.certificate_faults.values()))
    told = "no certificate for service red: no manager answers; it is asked for again"
    assert found == [[], [], [told]]
    table.wipe_all()
    assert table.certificate_faults == {}


async def test_rotation_beside_it_leaves_the_certificate(
    config: AgentConfig, manager: CertifyingManager, clock: ManualClock, history: History
) -> None:
    async with running(config, clock):
        await mounted(config, manager)
        before = [read(config, target) for target in wire.CERTIFICATE_TARGETS]
        await commit(manager, history, red(("a", 2)))
        await until(lambda: read(config, "a") == b"value of a version 2")
        assert [read(config, target) for target in wire.CERTIFICATE_TARGETS] == before


async def test_service_that_gets_one_keeps_its_files_until_it_is_here(
    config: AgentConfig, manager: CertifyingManager, clock: ManualClock, history: History
) -> None:
    manager.refuses = "unavailable"
    history.commit({RED: red(("a", 1), certificate=False)})
    manager.core.view = history.newest
    async with running(config, clock):
        await until(lambda: read(config, "a") is not None)
        await commit(manager, history, red(("a", 2), spec_number=2))
        await until(lambda: manager.asked == 1)
        assert read(config, "a") == b"value of a version 1"
        told = result(manager)
        assert told is not None
        assert told.spec_number == 1, "the change is not carried out yet"
        manager.refuses = ""
        await pass_until(clock, lambda: read(config, "a") == b"value of a version 2")
        await until(lambda: (found := result(manager)) is not None and found.spec_number == 2)
        assert read(config, "tls.crt")
        await commit(manager, history, red(("a", 2), spec_number=3, certificate=False))
        await until(lambda: read(config, "tls.key") is None)


async def test_set_moves_to_another_owner(
    config: AgentConfig, manager: CertifyingManager, clock: ManualClock, history: History
) -> None:
    async with running(config, clock):
        await mounted(config, manager)
        before = read(config, "tls.key")
        await commit(manager, history, red(("a", 1), uid=61009))
        path = config.mount_root / "red" / "tls.key"
        await until(lambda: path.exists() and path.stat().st_uid == 61009)
        assert read(config, "tls.key") == before
    assert manager.asked == 1


async def test_lapsed_lease_takes_secrets_that_say_so_and_leaves_the_certificate(
    config: AgentConfig, manager: CertifyingManager, clock: ManualClock, history: History
) -> None:
    leased = service("red", ("a", 1), uid=61001, wipe=True)
    history.commit({RED: msgspec.structs.replace(leased, certificate=True)})
    manager.core.view = history.newest
    manager.core.lease_s = 60.0
    async with running(config, clock):
        await mounted(config, manager)
        before = read(config, "tls.key")
        manager.core.grants_leases = False
        clock.advance(120.0)
        await until(lambda: read(config, "a") is None)
        assert read(config, "tls.key") == before


async def test_wipe_takes_the_key_too(
    config: AgentConfig, manager: CertifyingManager, clock: ManualClock
) -> None:
    async with running(config, clock):
        await mounted(config, manager)
        await manager.tell(wire.Wipe("evicted"))
        await until(lambda: not (config.mount_root / "red").exists())


async def test_restarted_agent_keeps_the_set_and_asks_for_a_new_key(
    config: AgentConfig, manager: CertifyingManager, clock: ManualClock
) -> None:
    async with running(config, clock):
        await mounted(config, manager)
    before = read(config, "tls.key")
    manager.refuses = "unavailable"
    async with running(config, clock):
        await until(lambda: manager.asked == 2)
        assert read(config, "tls.key") == before
        manager.refuses = ""
        await pass_until(clock, lambda: read(config, "tls.key") != before)


@pytest.mark.threat("T-15")
async def test_node_refuses_a_secret_in_the_certificates_place(
    config: AgentConfig, manager: CertifyingManager, clock: ManualClock, history: History
) -> None:
    history.commit({RED: red(("tls.key", 1))})
    manager.core.view = history.newest
    async with running(config, clock):
        await until(lambda: (found := result(manager)) is not None and "target" in found.error)
        assert read(config, "tls.key") is None


async def test_set_in_a_given_volume_is_the_volumes_groups(
    tmp_path: Path, history: History, clock: ManualClock
) -> None:
    options = f"{MEMORY_ONLY},mode=2750,gid=61002"
    with reachable_directory() as base, mounts_taken_away(base / "volumes") as root:
        mount_filesystem(root / "red", "tmpfs", options)
        config = AgentConfig(
            data_dir=tmp_path / "data", run_dir=base / "run", mounts=MountKind.GIVEN,
            given_root=root,
        )  # fmt: skip
        made = CertifyingManager("m1", history, ClusterAuthority())
        made.core.lease_s = 86_400.0
        async with served(made):
            enrol(config, made)
            async with running(config, clock):
                await mounted(config, made)
                first = read(config, "tls.key")
                clock.advance(0.9 * LIFE_S)
                await until(lambda: read(config, "tls.key") != first)
                found = (root / "red" / "tls.key").stat()
                assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (61002, 0o440)
