"""The supervised member: which programs it may be, and that it neither stays down nor behind."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from cluster.engine import etcd_member
from cluster.engine.etcd_launch import ORPHANED
from cluster.engine.etcd_launch import __file__ as launcher
from cluster.engine.etcd_member import (
    EtcdMember,
    accept_version,
    check_version,
    command_line,
    find_etcd,
)
from cluster.engine.seam import Put
from cluster.protocol.errors import Unavailable
from tests.support.etcd_cluster import (
    PeerCa,
    RunningMember,
    binary_params,
    etcd_cluster,
    free_address,
    member_settings,
    need_etcd,
    start_member,
    wait_until_serving,
)
from tests.unit.engine.conformance import commit, present

MANAGER = """
import asyncio, sys
from cluster.engine.etcd_member import EtcdMember, MemberSettings
from pathlib import Path

async def main():
    name, program, data, run, address, pem, ca = sys.argv[1:]
    settings = MemberSettings(
        name, Path(program), Path(data), Path(run), address, address, "token", Path(pem), Path(ca)
    )
    member = EtcdMember(settings)
    await member.start({name: address}, "new")
    print(member.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
async def member(tmp_path: Path) -> AsyncIterator[RunningMember]:
    async with etcd_cluster(tmp_path) as members:
        yield members[0]


@pytest.mark.parametrize("version", [(3, 4, 22), (3, 4, 23), (3, 5, 3), (3, 5, 16), (3, 6, 0)])
def test_sound_versions_are_accepted(version: tuple[int, int, int]) -> None:
    assert accept_version(version) == ".".join(map(str, version))


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ((3, 3, 27), "too old"),
        ((3, 4, 21), "too old"),
        ((3, 5, 0), "corrupts"),
        ((3, 5, 1), "corrupts"),
        ((3, 5, 2), "corrupts"),
    ],
)
def test_unsound_versions_are_refused(version: tuple[int, int, int], why: str) -> None:
    with pytest.raises(Unavailable, match=why):
        accept_version(version)


@pytest.mark.parametrize("program", binary_params())
async def test_version_is_read_from_the_program(program: Path) -> None:
    assert (await check_version(program)).startswith("3.")


async def test_a_program_that_is_not_etcd_is_refused() -> None:
    with pytest.raises(Unavailable, match="does not say which etcd"):
        await check_version(Path("/bin/true"))


def test_a_missing_program_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="Debian package etcd-server"):
        find_etcd()
    with pytest.raises(Unavailable, match="Debian package etcd-server"):
        find_etcd(tmp_path / "etcd")


def test_a_program_is_found_where_configured_and_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "etcd"
    program.touch(mode=0o700)
    assert find_etcd(program) == program
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_etcd() == program


def test_command_line_holds_what_trust_rests_on(tmp_path: Path) -> None:
    settings = member_settings(tmp_path, PeerCa(), Path("/bin/etcd"), "m1", "127.0.0.1:2380")
    command = command_line(settings, {"m1": "127.0.0.1:2380", "m2": "127.0.0.1:2381"}, "existing")
    assert command[0] == "/bin/etcd"
    assert {
        "--listen-client-urls=unix://m1.sock:0",
        "--peer-client-cert-auth=true",
        "--peer-cert-allowed-cn=strongroom-manager",
        "--pre-vote=true",
        "--initial-cluster=m1=https://127.0.0.1:2380,m2=https://127.0.0.1:2381",
        "--initial-cluster-state=existing",
    } <= set(command)
    assert not any("skip-client-san" in option or "auto-tls" in option for option in command)


async def test_the_socket_is_behind_a_private_directory(member: RunningMember) -> None:
    settings = member.member.settings
    assert settings.socket_path.is_socket()
    assert stat.S_IMODE(settings.run_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(settings.log_path.stat().st_mode) == 0o600


async def test_the_member_inherits_no_environment(member: RunningMember) -> None:
    pid = member.member.pid
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    names = {variable.partition(b"=")[0] for variable in environment if variable}
    # Python sets LC_CTYPE for itself when there is no locale
    assert names - {b"LC_CTYPE"} == {b"GOGC"}


async def test_a_crashed_member_is_started_again(member: RunningMember) -> None:
    await commit(member.engine, Put(b"k", b"v"))
    crashed = member.member.pid
    assert crashed is not None
    os.kill(crashed, signal.SIGKILL)
    await commit(member.engine, Put(b"after", b"v"))
    assert member.member.pid not in {None, crashed}
    assert (await present(member.engine, b"k")).value == b"v"
    assert not member.member.removed.is_set()


async def test_a_member_whose_log_is_gone_waits_for_it(member: RunningMember) -> None:
    """Begun anew under its old name it would have forgotten what it acknowledged; control: as soon
    as the log is there again, so is everything."""
    await commit(member.engine, Put(b"k", b"v"))
    await member.member.stop()
    member.member = EtcdMember(member.member.settings)
    await member.member.start(member.initial, "new")
    await wait_until_serving(member.engine)
    crashed = member.member.pid
    assert crashed is not None
    data_dir = member.member.settings.data_dir
    with capture_logs() as said:
        os.kill(crashed, signal.SIGSTOP)
        data_dir.rename(data_dir.with_name("unmounted"))
        os.kill(crashed, signal.SIGKILL)
        async with asyncio.timeout(60):
            while not any(line["event"] == "engine.member_log_gone" for line in said):  # noqa: ASYNC110  # a log
                await asyncio.sleep(0.05)
    assert member.member.pid is None
    assert not data_dir.exists()
    data_dir.with_name("unmounted").rename(data_dir)
    assert (await present(member.engine, b"k")).value == b"v"
    assert member.member.pid not in {None, crashed}


async def test_so_does_one_that_died_before_anybody_looked_for_its_log(
    member: RunningMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first start, which ends before the first look; its disk goes away once that was told."""
    await member.member.stop()
    member.member.wipe_data_dir()
    member.member = EtcdMember(member.member.settings)
    monkeypatch.setattr(etcd_member, "LOG_LOOK_S", 600)
    await member.member.start(member.initial, "new")
    await commit(member.engine, Put(b"k", b"v"))
    crashed = member.member.pid
    assert crashed is not None
    data_dir = member.member.settings.data_dir
    told: list[str] = []

    def take_away(_: object, __: str, event: EventDict) -> EventDict:
        told.append(event["event"])
        if told[-1] == "engine.member_ended":
            data_dir.rename(data_dir.with_name("unmounted"))
            monkeypatch.setattr(etcd_member, "LOG_LOOK_S", 0.05)
        return event

    with capture_logs(processors=[take_away]):
        os.kill(crashed, signal.SIGKILL)
        async with asyncio.timeout(60):
            while len(told) < 2:  # noqa: ASYNC110  # a log
                await asyncio.sleep(0.05)
    assert told == ["engine.member_ended", "engine.member_log_gone"]
    data_dir.with_name("unmounted").rename(data_dir)
    assert (await present(member.engine, b"k")).value == b"v"


async def test_a_stopped_member_stays_down(member: RunningMember) -> None:
    pid = member.member.pid
    await member.member.stop()
    await asyncio.sleep(0.5)  # longer than the first pause before a restart
    assert member.member.pid is None
    assert not Path(f"/proc/{pid}").exists()
    assert not member.member.removed.is_set()


async def test_a_stuck_member_is_killed(member: RunningMember) -> None:
    member.freeze()
    pid = member.member.pid
    await member.member.stop()
    assert not Path(f"/proc/{pid}").exists()


async def test_data_is_not_wiped_under_a_running_member(member: RunningMember) -> None:
    with pytest.raises(Unavailable, match="stop it"):
        member.member.wipe_data_dir()
    await member.member.stop()
    member.member.wipe_data_dir()
    member.member.wipe_data_dir()
    assert not member.member.settings.data_dir.exists()


async def test_a_member_can_be_started_again_on_its_data(member: RunningMember) -> None:
    await commit(member.engine, Put(b"k", b"v"))
    await member.member.stop()
    member.member = EtcdMember(member.member.settings)
    await member.member.start(member.initial, "new")
    await wait_until_serving(member.engine)
    assert (await present(member.engine, b"k")).value == b"v"


async def test_an_identity_in_memory_is_inherited(tmp_path: Path) -> None:
    settings = member_settings(tmp_path, PeerCa(), need_etcd(), "m1", free_address())
    memory = os.memfd_create("engine-identity")
    os.write(memory, settings.peer_pem.read_bytes())
    settings.peer_pem.unlink()
    inherited = replace(settings, peer_pem=Path(f"/proc/self/fd/{memory}"), inherit=(memory,))
    member = await start_member(inherited, {"m1": settings.peer_advertise})
    try:
        await wait_until_serving(member.engine)
        await commit(member.engine, Put(b"k", b"v"))
    finally:
        await member.end()
        os.close(memory)


async def test_the_member_dies_with_its_manager(tmp_path: Path) -> None:
    settings = member_settings(tmp_path, PeerCa(), need_etcd(), "m1", free_address())
    arguments = (
        settings.name, settings.program, settings.data_dir, settings.run_dir,
        settings.peer_listen, settings.peer_pem, settings.peer_ca_pem,
    )  # fmt: skip
    manager = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MANAGER, *map(str, arguments), stdout=subprocess.PIPE
    )
    assert manager.stdout is not None
    while not (line := await manager.stdout.readline()).strip().isdigit():
        assert line  # a log line
    pid = int(line)
    async with asyncio.timeout(60):
        while not settings.socket_path.exists():  # noqa: ASYNC110  # another process makes it
            await asyncio.sleep(0.02)
    assert _is_running(pid)
    manager.kill()
    await manager.communicate()
    async with asyncio.timeout(60):
        while _is_running(pid):  # noqa: ASYNC110  # another process ends
            await asyncio.sleep(0.02)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_an_orphaned_launch_starts_nothing() -> None:
    command = [sys.executable, "-I", "-S", launcher, str(os.getpid() + 1), "/bin/true"]
    assert subprocess.run(command, check=False).returncode == ORPHANED
    command[4] = str(os.getpid())
    assert subprocess.run(command, check=False).returncode == 0
