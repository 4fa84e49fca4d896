"""The whole agent on real mounts, real sockets and real mutual TLS, against a naive manager."""

import asyncio
import stat
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from agent import local_call
from agent.config import AgentConfig
from agent.identity import DataDirectory
from agent.main import TICK_S, Agent
from cluster.protocol import wire
from cluster.protocol.errors import AlreadyExists, NotFound
from cluster.system import SystemClock, SystemEntropy
from tests.simulation.naive_manager import History, service
from tests.simulation.running_agent import enrol, running, until
from tests.simulation.served_manager import ServedManager, served
from tests.support.authority import ClusterAuthority
from tests.support.clock import ManualClock
from tests.support.mounts import mounts_taken_away, reachable_directory

pytestmark = pytest.mark.needs_root

RED = "id-red"


@pytest.fixture
def config(tmp_path: Path) -> Iterator[AgentConfig]:
    with reachable_directory() as run_dir, mounts_taken_away(run_dir):
        yield AgentConfig(data_dir=tmp_path / "data", run_dir=run_dir)


@pytest.fixture
def history() -> History:
    made = History()
    made.commit({RED: service("red", ("a", 1), ("b", 1), uid=61001)})
    return made


@pytest.fixture
async def manager(history: History) -> AsyncIterator[ServedManager]:
    async with served(ServedManager("m1", history, ClusterAuthority())) as running:
        yield running


def content(config: AgentConfig, target: str, name: str = "red") -> bytes | None:
    try:
        return (config.mount_root / name / target).read_bytes()
    except FileNotFoundError:
        return None


async def test_assigned_secret_reaches_the_file_and_is_acknowledged(
    config: AgentConfig, manager: ServedManager
) -> None:
    enrol(config, manager)
    async with running(config):
        await until(lambda: bool(manager.core.acks))
        assert content(config, "a") == b"value of a version 1"
        found = (config.mount_root / "red" / "a").stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (61001, 0o440)
        (result,) = manager.core.acks[-1].services
        assert result.error == ""
        assert len(result.mounted) == 2


async def test_rotated_secret_is_swapped_without_sending_the_other(
    config: AgentConfig, manager: ServedManager, history: History
) -> None:
    enrol(config, manager)
    async with running(config):
        await until(lambda: bool(manager.core.acks))
        history.commit({RED: service("red", ("a", 2), ("b", 1), uid=61001)})
        await manager.push()
        await until(lambda: len(manager.core.acks) == 2)
        assert content(config, "a") == b"value of a version 2"
        assert content(config, "b") == b"value of b version 1"


async def test_removed_service_loses_its_files(
    config: AgentConfig, manager: ServedManager, history: History
) -> None:
    enrol(config, manager)
    async with running(config):
        await until(lambda: bool(manager.core.acks))
        # The value of a is in red's mount only, and red goes as blue comes.
        history.commit({"id-blue": service("blue", ("a", 1), uid=61002)})
        await manager.push()
        await until(lambda: len(manager.core.acks) == 2)
        assert content(config, "a") is None
        assert content(config, "a", "blue") == b"value of a version 1"
        assert manager.core.acks[-1].dropped == (RED,)


async def test_restarted_agent_adopts_its_mounts_and_asks_for_no_value(
    config: AgentConfig, manager: ServedManager
) -> None:
    enrol(config, manager)
    async with running(config):
        await until(lambda: bool(manager.core.acks))
    before = (config.mount_root / "red" / "a").stat()
    manager.sent.clear()
    async with running(config):
        await until(lambda: len(manager.core.acks) == 2)
        after = (config.mount_root / "red" / "a").stat()
    assert (before.st_ino, before.st_dev) == (after.st_ino, after.st_dev)
    assert [m.values for m in manager.sent if isinstance(m, wire.Values)] == [()]


async def test_files_stay_when_the_managers_go(config: AgentConfig, manager: ServedManager) -> None:
    enrol(config, manager)
    async with running(config):
        await until(lambda: bool(manager.core.acks))
        await manager.cut()
        await until(lambda: len(manager.peers) == 2)
        assert content(config, "a") == b"value of a version 1"


async def test_wipe_takes_everything_away_before_it_is_acknowledged(
    config: AgentConfig, manager: ServedManager
) -> None:
    enrol(config, manager)
    async with running(config):
        await until(lambda: bool(manager.core.acks))
        left: list[bool] = []
        receive = manager.core.receive

        def note(link: int, message: wire.FromAgent) -> list[wire.FromManager]:
            if isinstance(message, wire.Ack):
                left.append((config.mount_root / "red").exists())
            return receive(link, message)

        manager.core.receive = note  # type: ignore[method-assign]
        await manager.tell(wire.Wipe("evicted"))
        await until(lambda: bool(left))
        assert left == [False]


async def test_renewal_moves_to_a_second_session_with_the_new_certificate(
    config: AgentConfig, manager: ServedManager
) -> None:
    clock = ManualClock(SystemClock().now())
    manager.core.lease_s = 86_400.0  # the clock's jump is for the certificate alone
    enrol(config, manager)
    old = DataDirectory(config.data_dir).fetch_identity()
    async with running(config, clock):
        await until(lambda: bool(manager.core.acks))
        clock.advance(timedelta(minutes=55))
        await until(lambda: len(manager.sessions) == 1 and len(manager.peers) == 2)
        await until(lambda: len(manager.core.acks) >= 2)
    new = DataDirectory(config.data_dir).fetch_identity()
    assert manager.renewals == 1
    assert manager.peers[0] != manager.peers[1]
    assert new.key.private_numbers() != old.key.private_numbers()
    assert content(config, "a") == b"value of a version 1"


async def test_expired_node_comes_back_by_its_old_key(
    config: AgentConfig, manager: ServedManager
) -> None:
    manager.issues_at = ManualClock(SystemClock().now() - timedelta(hours=2))
    enrol(config, manager)
    manager.issues_at = SystemClock()
    async with running(config):
        await until(lambda: bool(manager.core.acks))
    assert [sorted(joined) for joined in manager.joins] == [["certificate", "csr", "signature"]]


async def test_node_posing_as_a_manager_gets_no_session(
    config: AgentConfig, history: History
) -> None:
    manager = ServedManager("m1", history, ClusterAuthority())
    impostor = manager.authority.forge([f"spiffe://{manager.authority.trust_domain}/node/n2"])
    async with served(manager, impostor):
        enrol(config, manager)
        async with running(config):
            await until(lambda: len(manager.peers) >= 3)
            assert not manager.core.acks
            assert content(config, "a") is None


async def test_lapsed_lease_wipes_and_a_new_one_restores(
    config: AgentConfig, history: History
) -> None:
    history.commit({RED: service("red", ("a", 1), uid=61001, wipe=True)})
    clock = ManualClock(SystemClock().now())
    async with served(ServedManager("m1", history, ClusterAuthority())) as manager:
        enrol(config, manager)
        async with running(config, clock):
            await until(lambda: content(config, "a") is not None)
            manager.core.grants_leases = False
            clock.advance(120.0)
            await until(lambda: content(config, "a") is None)
            manager.core.grants_leases = True
            clock.advance(25.0)
            await until(lambda: content(config, "a") == b"value of a version 1")


@pytest.mark.threat("T-33")
async def test_calendar_has_no_say_in_a_lease(config: AgentConfig, history: History) -> None:
    """The wall clock goes back a year: the lease ends all the same, and not before its time."""
    history.commit({RED: service("red", ("a", 1), ("b", 1), uid=61001, leases={"a": 30.0})})
    clock = ManualClock(SystemClock().now())
    async with served(ServedManager("m1", history, ClusterAuthority())) as manager:
        enrol(config, manager)
        async with running(config, clock):
            await until(lambda: content(config, "a") is not None)
            await until((config.run_dir / "lease.json").exists)
            manager.core.grants_leases = False
            clock.jump(clock.now() - timedelta(days=365))
            clock.advance(29.0)
            await asyncio.sleep(2 * TICK_S)
            assert content(config, "a") is not None
            clock.advance(1.0)
            await until(lambda: content(config, "a") is None)
            assert content(config, "b") is not None


@pytest.mark.threat("T-33")
async def test_restarted_agent_wipes_what_its_own_lease_no_longer_covers(
    config: AgentConfig, history: History
) -> None:
    leases = {"a": 30.0, "b": 120.0}
    history.commit({RED: service("red", ("a", 1), ("b", 1), uid=61001, leases=leases)})
    clock = ManualClock(SystemClock().now())
    async with served(ServedManager("m1", history, ClusterAuthority())) as manager:
        enrol(config, manager)
        async with running(config, clock):
            await until(lambda: content(config, "a") is not None)
            await until((config.run_dir / "lease.json").exists)
    assert content(config, "a") is not None
    clock.advance(60.0, asleep=True)
    async with running(config, clock):
        await until(lambda: content(config, "a") is None)
        assert content(config, "b") == b"value of b version 1"


async def test_agent_stopped_over_its_lease_wipes_when_it_starts_without_managers(
    config: AgentConfig, history: History
) -> None:
    history.commit({RED: service("red", ("a", 1), ("b", 1), uid=61001, wipe=True)})
    clock = ManualClock(SystemClock().now())
    async with served(ServedManager("m1", history, ClusterAuthority())) as manager:
        enrol(config, manager)
        async with running(config, clock):
            await until(lambda: content(config, "a") is not None)
    assert content(config, "a") is not None
    clock.advance(3600.0, asleep=True)
    async with running(config, clock):
        await until(lambda: content(config, "a") is None)


async def test_local_sockets_answer(config: AgentConfig, manager: ServedManager) -> None:
    enrol(config, manager)
    async with running(config):
        await until(lambda: bool(manager.core.acks))
        control = config.run_dir / "control.sock"
        answer = await asyncio.to_thread(local_call.call, control, "service", "red")
        assert b'"mounted": true' in answer
        status = await asyncio.to_thread(local_call.call, control, "status")
        assert b'"synced": true' in status


async def test_agent_that_never_joined_says_how(config: AgentConfig) -> None:
    with pytest.raises(NotFound, match="strongroom-agent join"):
        await Agent(config, SystemClock(), SystemEntropy()).run(asyncio.Event())


async def test_second_agent_on_the_same_data_directory_is_refused(
    config: AgentConfig, manager: ServedManager
) -> None:
    enrol(config, manager)
    async with running(config):
        await until(lambda: bool(manager.core.acks))
        with pytest.raises(AlreadyExists):
            await Agent(config, SystemClock(), SystemEntropy()).run(asyncio.Event())
