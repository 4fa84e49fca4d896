"""A service is asked whether it works: as itself, within limits, and without a word leaking."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from agent.config import AgentConfig
from agent.health_checks import HealthChecks
from agent.service_command import ServiceCommands
from cluster.protocol.wire import HealthCheck, HealthReport, ServiceAssignment, VersionKey
from tests.simulation.naive_manager import History, service
from tests.simulation.running_agent import enrol, running, until
from tests.simulation.served_manager import ServedManager, served
from tests.support.authority import ClusterAuthority
from tests.support.clock import ManualClock
from tests.support.mounts import mounts_taken_away, reachable_directory
from tests.unit.agent.test_on_change import start

pytestmark = pytest.mark.needs_root

RED, UID = "id-red", 61_002


@pytest.fixture
def config(tmp_path: Path) -> Iterator[AgentConfig]:
    with reachable_directory() as run_dir, mounts_taken_away(run_dir):
        yield AgentConfig(data_dir=tmp_path / "data", run_dir=run_dir)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that every service may write to."""
    with reachable_directory() as directory:
        directory.chmod(0o777)
        yield directory


def shell(script: str, timeout_s: float = 10.0, retries: int = 1) -> HealthCheck:
    return HealthCheck("exec", ("/bin/sh", "-c", script), "", 0.5, timeout_s, retries)


def red(check: HealthCheck, version: int = 1, **changes: object) -> ServiceAssignment:
    plain = service("red", ("a", version), uid=UID)
    return msgspec.structs.replace(plain, health=check, **changes)


@asynccontextmanager
async def placed(config: AgentConfig, *services: ServiceAssignment) -> AsyncIterator[ServedManager]:
    history = History()
    history.commit({one.service_id: one for one in services})
    async with served(ServedManager("m1", history, ClusterAuthority())) as manager:
        enrol(config, manager)
        async with running(config):
            await until(lambda: bool(manager.core.acks))
            yield manager


async def change(manager: ServedManager, *services: ServiceAssignment) -> None:
    acks = len(manager.core.acks)
    manager.core.history.commit({one.service_id: one for one in services})
    await manager.push()
    await until(lambda: len(manager.core.acks) > acks)


async def told(manager: ServedManager, count: int = 1) -> HealthReport:
    await until(lambda: len(manager.core.health) >= count)
    return manager.core.health[count - 1]


def verdict(report: HealthReport) -> tuple[bool, str]:
    return report.healthy, report.detail


def runs_as_service(word: str) -> list[int]:
    """Return the pids under the service's uid that have `word` in their command line."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            mine = process.name.isdigit() and process.stat().st_uid == UID
            if mine and word.encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


# --- commands ------------------------------------------------------------------------------------


@pytest.mark.threat("T-35")
async def test_command_is_the_service_and_judges_what_is_mounted(
    config: AgentConfig, shared: Path
) -> None:
    seen = shared / "seen"
    check = shell(
        f"id -u > {seen}; grep Cap /proc/self/status >> {seen}; env >> {seen};"
        " grep -q 'version 1' /run/secrets/a || exit 3"
    )
    async with placed(config, red(check)) as manager:
        first = await told(manager)
        assert first == HealthReport(RED, 1, (VersionKey("a", 1),), healthy=True)
        lines = seen.read_text().splitlines()
        assert lines[0] == str(UID)
        capabilities = [line.split()[1] for line in lines if line.startswith("Cap")]
        assert set(capabilities) == {"0" * 16}
        assert not any(name in seen.read_text() for name in ("PYTHON", "value of"))
        await change(manager, red(check, version=2))
        second = await told(manager, 2)
        assert second == HealthReport(RED, 1, (VersionKey("a", 2),), False, "exit status 3")


async def test_failure_is_told_by_its_status(config: AgentConfig) -> None:
    commands = {
        "exit status 7": ("/bin/sh", "-c", "exit 7"),
        "exit status 137": ("/bin/sh", "-c", "kill -9 $$"),
        "exit status 127": ("/nonexistent/check",),
        "exit status 126": ("/etc/hostname",),
    }
    services = [
        msgspec.structs.replace(
            service(f"s{number}", (f"a{number}", 1), uid=UID + number),
            health=HealthCheck("exec", command, "", 0.5, 10.0, 1),
        )
        for number, command in enumerate(commands.values())
    ]
    async with placed(config, *services) as manager:
        await told(manager, len(commands))
        found = {one.service_id: verdict(one) for one in manager.core.health}
    assert found == {f"id-s{n}": (False, detail) for n, detail in enumerate(commands)}


async def test_hanging_check_is_ended_and_holds_up_nobody(config: AgentConfig) -> None:
    # The inner shell is in a process group of its own and deaf to polite signals.
    hangs = shell("trap '' TERM HUP INT; setsid sleep 3611 & sleep 3611", timeout_s=3.0)
    blue = msgspec.structs.replace(
        service("blue", ("b", 1), uid=UID + 1), health=shell("exit 0", retries=1)
    )
    async with placed(config, red(hangs), blue) as manager:
        await until(lambda: len(runs_as_service("3611")) > 1)
        await change(manager, red(hangs), service("blue", ("b", 2), uid=UID + 1))
        assert runs_as_service("3611"), "new files came while the check hung"
        await until(lambda: any(one.service_id == RED for one in manager.core.health))
        report = next(one for one in manager.core.health if one.service_id == RED)
        assert verdict(report) == (False, "timed out after 3 s")
        assert len(manager.sessions) == 1
        await until(lambda: not runs_as_service("3611"))


async def test_removed_service_takes_its_check_along(config: AgentConfig) -> None:
    check = shell("exec sleep 3612", timeout_s=300.0)
    async with placed(config, red(check)) as manager:
        await until(lambda: bool(runs_as_service("3612")))
        await change(manager)
        await until(lambda: not runs_as_service("3612"))
        assert manager.core.health == []


async def test_check_ends_with_the_agent_and_a_new_agent_starts_fresh(
    config: AgentConfig,
) -> None:
    check = shell("grep -q 'version 1' /run/secrets/a && exit 0; exec sleep 3613", timeout_s=300.0)
    history = History()
    history.commit({RED: red(check)})
    async with served(ServedManager("m1", history, ClusterAuthority())) as manager:
        enrol(config, manager)
        async with running(config):
            await told(manager)
            await change(manager, red(check, version=2))
            await until(lambda: bool(runs_as_service("3613")))
        await until(lambda: not runs_as_service("3613"))
        async with running(config):
            await until(lambda: bool(runs_as_service("3613")))
            assert len(manager.core.health) == 1


async def test_verdict_is_told_again_over_a_new_session(config: AgentConfig) -> None:
    async with placed(config, red(shell("exit 0"))) as manager:
        first = await told(manager)
        await manager.cut()
        assert await told(manager, 2) == first
        assert len(manager.peers) == 2


@pytest.mark.threat("T-35")
async def test_what_a_check_prints_is_seen_nowhere(
    config: AgentConfig, shared: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    printed = shared / "printed"
    check = shell(f"cat /run/secrets/a; cat /run/secrets/a >&2; touch {printed}; exit 4")
    async with placed(config, red(check)) as manager:
        report = await told(manager)
        assert printed.exists(), "the control: it did run, and had the value to print"
        assert verdict(report) == (False, "exit status 4")
    assert "value of a" not in "".join(capfd.readouterr())


async def test_command_whose_time_is_over_is_gone_when_that_is_said(config: AgentConfig) -> None:
    """Gone and reaped, here and now: a container may have nobody else to reap it."""
    async with placed(config, service("red", ("a", 1), uid=UID)):
        commands = ServiceCommands(config.run_dir)
        began = asyncio.create_task(
            commands.run("red", ("/bin/sh", "-c", "setsid sleep 3616 & sleep 3616"), 300.0)
        )
        await until(lambda: len(runs_as_service("3616")) >= 3)
        (supervisor,) = commands.supervisors
        began.cancel()
        with pytest.raises(asyncio.CancelledError):
            await began
        assert runs_as_service("") == []
        assert not Path(f"/proc/{supervisor}").exists()


# --- the service's process ----------------------------------------------------------------------


async def test_process_counts_while_it_runs_and_a_command_of_ours_does_not(
    config: AgentConfig, shared: Path
) -> None:
    began = shared / "began"
    assignment = red(
        HealthCheck("process", (), "", 0.5, 5.0, 1),
        on_change_command=("/bin/sh", "-c", f"touch {began}; exec sleep 3614"),
        on_change_timeout_s=60.0,
    )
    async with placed(config, assignment) as manager:
        assert verdict(await told(manager)) == (False, "not running")
        process = await start(config, "sh", "-c", "echo ready; exec sleep 3615")
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        assert verdict(await told(manager, 2)) == (True, "")
        files = service("red", ("a", 2), uid=UID).files
        await change(manager, msgspec.structs.replace(assignment, files=files))
        await until(began.exists)
        assert (await told(manager, 3)).mounted == (VersionKey("a", 2),)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        assert verdict(await told(manager, 4)) == (False, "not running")
        assert runs_as_service("3614"), "the command of on_change still runs"


# --- http: without a node around it ---------------------------------------------------------------


@asynccontextmanager
async def http_server(answer: bytes, *, close: bool) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Serve the same bytes to whoever asks; yield the port and what was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
            if not close:
                await reader.read()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        server.close()


async def found_by(check: HealthCheck) -> tuple[bool, str]:
    """Return what one check comes to on a node that can run nothing as a service."""
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with asyncio.TaskGroup() as group:
        checks = HealthChecks(None, Path, clock, group)
        checks.follow([red(check)])
        clock.advance(1.0)
        checks.begin_due()
        reports: tuple[HealthReport, ...] = ()
        async with asyncio.timeout(30):
            while not (reports := checks.reports(1)):  # noqa: ASYNC110  # nothing signals it
                await asyncio.sleep(0.01)
        checks.cancel()
    return verdict(reports[0])


def fetching(port: int, timeout_s: float = 10.0) -> HealthCheck:
    return HealthCheck("http", (), f"http://localhost:{port}/up?x=1", 0.5, timeout_s, 1)


@pytest.mark.parametrize(
    ("answer", "close", "said"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", False, (True, "")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True, (True, "")),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", True, (True, "")),
        (b"HTTP/1.1 302 Found\r\nlocation: http://10.0.0.1/\r\n\r\n", True, (True, "")),
        (b"HTTP/1.1 404 value\r\n\r\nvalue", True, (False, "http status 404")),
        (b"HTTP/1.1 503 Busy\r\n\r\n", True, (False, "http status 503")),
        (b"", True, (False, "no http answer")),
        (b"SSH-2.0-x\r\n", True, (False, "no http answer")),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, False, (False, "no http answer")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, False, (False, "no http answer")),
    ],
    ids=range(10),
)
async def test_http_status_decides(answer: bytes, close: bool, said: tuple[bool, str]) -> None:
    async with http_server(answer, close=close) as (port, asked):
        assert await found_by(fetching(port)) == said
    assert asked[0].startswith(b"GET /up?x=1 HTTP/1.1\r\n")
    assert f"host: localhost:{port}\r\n".encode() in asked[0].lower()


async def test_server_that_says_nothing_is_given_its_time_and_no_more() -> None:
    async with http_server(b"", close=False) as (port, _):
        assert await found_by(fetching(port, 0.2)) == (False, "timed out after 0.2 s")


async def test_nobody_listens() -> None:
    async with http_server(b"", close=True) as (port, _):
        pass
    assert await found_by(fetching(port)) == (False, "no connection")


@pytest.mark.threat("T-35")
@pytest.mark.parametrize("url", ["http://10.255.255.1/", "https://127.0.0.1/", "nonsense"])
async def test_agent_fetches_from_loopback_alone_whatever_a_manager_says(url: str) -> None:
    check = HealthCheck("http", (), url, 0.5, 5.0, 1)
    assert await found_by(check) == (False, "the url is not one of loopback")


@pytest.mark.parametrize(
    ("check", "why"),
    [
        (shell("exit 0"), "given volumes"),
        (HealthCheck("process", (), "", 0.5, 5.0, 1), "given volumes"),
        (HealthCheck("oracle", (), "", 0.5, 5.0, 1), "upgrade"),
    ],
)
async def test_check_that_a_node_cannot_make_fails_and_says_so(
    check: HealthCheck, why: str
) -> None:
    healthy, detail = await found_by(check)
    assert (healthy, why in detail) == (False, True)
