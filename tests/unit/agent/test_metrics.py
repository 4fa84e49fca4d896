"""An agent's metrics: what is counted, how it stands, the listener's limits, and no name in it."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from agent import metrics_listener
from agent.config import AgentConfig, Overrides, load, loopback
from agent.counted import APPLY_S, Counted, Standing
from agent.metrics import CONTENT_TYPE, render
from agent.metrics_listener import MetricsListener
from cluster.protocol.errors import InvalidRequest, Unavailable
from cluster.system import SystemClock
from tests.simulation.naive_manager import History, service
from tests.simulation.running_agent import enrol, running, until
from tests.simulation.served_manager import ServedManager, served
from tests.support.authority import ClusterAuthority
from tests.support.clock import ManualClock
from tests.support.mounts import mounts_taken_away, reachable_directory
from tests.support.running import free_ports

RED, CANARY = "id-red", "canary-7f3a"
NOBODY = Standing(
    in_session=False, since_applied_s=None, services=0, files=0, files_lapsed=0,
    lease_left_s=None, certificate_left_s=-1.5, certificate_faults=0,
)  # fmt: skip
GET = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"


def samples(text: bytes) -> dict[str, float]:
    """Return every sample as a scraper reads it; a bucket by its bound."""
    return {
        sample.name + sample.labels.get("le", ""): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


async def asked(port: int, sent: bytes = GET) -> tuple[int, bytes]:
    """Return status and body; 0 where the other side said nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        async with asyncio.timeout(30):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    except ConnectionError:
        return 0, b""
    finally:
        writer.close()
    return int(head[9:12] or 0), body


# --- text ----------------------------------------------------------------------------------------


def test_counts_and_standing_are_told() -> None:
    counted = Counted(connected=3, lost=2, lapsed=1)
    for took_s in (0.0005, 0.02, 99.0, -1.0):
        counted.applied(took_s, 40.0)
    told = samples(render(counted, replace(NOBODY, in_session=True, files=7, lease_left_s=-4.0)))
    assert told["strongroom_agent_links_total"] == 3
    assert told["strongroom_agent_sessions_lost_total"] == 2
    assert told["strongroom_agent_leases_lapsed_total"] == 1
    assert told["strongroom_agent_in_session"] == 1
    assert told["strongroom_agent_files"] == 7
    assert told["strongroom_agent_lease_seconds_left"] == -4.0
    assert told["strongroom_agent_certificate_seconds_left"] == -1.5
    # A time below 0, of a clock that went back, counts as none; what takes longest is in +Inf.
    assert told["strongroom_agent_apply_seconds_bucket0.001"] == 2
    assert told["strongroom_agent_apply_seconds_bucket0.025"] == 3
    assert told[f"strongroom_agent_apply_seconds_bucket{APPLY_S[-1]}"] == 3
    assert told["strongroom_agent_apply_seconds_bucket+Inf"] == 4
    assert told["strongroom_agent_apply_seconds_count"] == 4
    assert "process_resident_memory_bytes" in told


def test_what_is_not_there_is_not_told() -> None:
    told = samples(render(Counted(), NOBODY))
    assert "strongroom_agent_lease_seconds_left" not in told
    assert "strongroom_agent_since_applied_seconds" not in told


def test_agent_that_nobody_scrapes_does_without_the_library() -> None:
    seen = "import sys, agent.main; print('prometheus_client' in sys.modules)"
    listening = "import sys, agent.metrics; print('prometheus_client' in sys.modules)"
    for program, answer in ((seen, "False"), (listening, "True")):
        ran = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert ran.stdout.strip() == answer


# --- the setting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["0.0.0.0:9", "10.0.0.1:9", "[::]:9", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", "",
     "127.0.0.1:9/metrics", "127.0.0.1:9?x", "example.org:9", "user@127.0.0.1:9"],
)  # fmt: skip
def test_only_loopback_is_listened_on(text: str) -> None:
    with pytest.raises(InvalidRequest, match="metrics_listen"):
        AgentConfig(metrics_listen=text)


def test_flag_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('metrics_listen = "127.0.0.1:7447"\n')
    assert load(Overrides(), file).metrics_listen == "127.0.0.1:7447"
    assert load(Overrides(metrics_listen="[::1]:7448"), file).metrics_listen == "[::1]:7448"
    assert load(Overrides()).metrics_listen is None


# --- the listener --------------------------------------------------------------------------------


@asynccontextmanager
async def listening(content: bytes = b"told\n") -> AsyncIterator[int]:
    (port,) = free_ports(1)
    listener = MetricsListener(loopback(f"127.0.0.1:{port}"), CONTENT_TYPE, lambda: content)
    await listener.start()
    try:
        yield port
    finally:
        await listener.close()


async def test_only_metrics_are_answered() -> None:
    async with listening() as port:
        assert await asked(port) == (200, b"told\n")
        assert await asked(port, GET.replace(b"/metrics", b"/status")) == (404, b"")
        assert await asked(port, GET.replace(b"GET", b"POST")) == (404, b"")
        assert (await asked(port, GET.replace(b"GET", b"HEAD")))[1] == b""
        for odd in (b"\x16\x03\x01 no http\r\n\r\n", b"GET /metrics\r\n\r\n"):
            assert (await asked(port, odd))[0] in {0, 400}
        head = GET.replace(b"\r\n\r\n", b"\r\nx: " + b"y" * 4 * metrics_listener.HEAD_LIMIT)
        assert (await asked(port, head + b"\r\n\r\n"))[0] in {0, 400}
        assert await asked(port) == (200, b"told\n")


async def test_silent_connections_are_bounded_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_listener, "REQUEST_TIMEOUT_S", 0.5)
    async with listening() as port:
        silent = [
            await asyncio.open_connection("127.0.0.1", port)
            for _ in range(metrics_listener.MAX_CONNECTIONS + 1)
        ]
        async with asyncio.timeout(30):
            assert [await reader.read() for reader, _ in silent] == [b""] * len(silent)
        for _, writer in silent:
            writer.close()
        assert await asked(port) == (200, b"told\n")


async def test_who_holds_every_connection_keeps_nobody_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The oldest make room, and one line tells of all of them."""
    monkeypatch.setattr(metrics_listener, "REQUEST_TIMEOUT_S", 60.0)
    over = 4
    with capture_logs() as told:
        async with listening() as port:
            silent = [
                await asyncio.open_connection("127.0.0.1", port)
                for _ in range(metrics_listener.MAX_CONNECTIONS + over - 1)
            ]
            assert await asked(port) == (200, b"told\n")
            async with asyncio.timeout(30):
                for reader, _ in silent[:over]:
                    assert await reader.read() == b""
            assert not any(reader.at_eof() for reader, _ in silent[over:])
        for _, writer in silent:
            writer.close()
    drops = [one for one in told if one["event"] == "metrics.connections_dropped"]
    assert [one["count"] for one in drops] == [over]


async def test_taken_address_is_named() -> None:
    async with listening() as port:
        other = MetricsListener(loopback(f"127.0.0.1:{port}"), CONTENT_TYPE, lambda: b"")
        with pytest.raises(Unavailable, match=str(port)):
            await other.start()


# --- the whole agent -----------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Iterator[AgentConfig]:
    (port,) = free_ports(1)
    with reachable_directory() as run_dir, mounts_taken_away(run_dir):
        yield AgentConfig(
            data_dir=tmp_path / "data", run_dir=run_dir, metrics_listen=f"127.0.0.1:{port}"
        )


async def scraped(config: AgentConfig) -> dict[str, float]:
    """Scrape, once the agent listens."""
    assert config.metrics_listen is not None
    port = int(config.metrics_listen.rpartition(":")[2])
    async with asyncio.timeout(30):
        while True:
            try:
                status, body = await asked(port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            assert status == 200
            assert CANARY.encode() not in body
            return samples(body)


async def becomes(config: AgentConfig, name: str, least: float) -> dict[str, float]:
    """Scrape until a sample has a value, or more."""
    async with asyncio.timeout(30):
        while True:
            told = await scraped(config)
            if told.get(f"strongroom_agent_{name}", -1.0) >= least:
                return told
            await asyncio.sleep(0.02)


@pytest.mark.needs_root
@pytest.mark.threat("T-45")
async def test_readings_follow_a_real_agent(config: AgentConfig) -> None:
    """Two files, one under a lease that runs out beside managers that renew none."""
    history = History()
    files = (CANARY, 1), ("b", 1)
    history.commit({RED: service(CANARY, *files, uid=61_001, leases={CANARY: 30.0})})
    clock = ManualClock(SystemClock().now())
    async with served(ServedManager("m1", history, ClusterAuthority())) as manager:
        enrol(config, manager)
        async with running(config, clock):
            told = await becomes(config, "files", 2)
            assert told["strongroom_agent_services"] == 1
            assert told["strongroom_agent_apply_seconds_count"] >= 1
            assert told["strongroom_agent_since_applied_seconds"] == 0
            assert told["strongroom_agent_certificate_seconds_left"] > 0
            assert told["strongroom_agent_files_lapsed"] == 0
            await becomes(config, "in_session", 1)
            await until((config.run_dir / "lease.json").exists)
            manager.core.grants_leases = False
            clock.advance(31.0)
            told = await becomes(config, "files_lapsed", 1)
            assert told["strongroom_agent_files"] == 1
            assert told["strongroom_agent_leases_lapsed_total"] == 1
            assert told["strongroom_agent_since_applied_seconds"] >= 31.0
            lost = told["strongroom_agent_sessions_lost_total"]
            links = told["strongroom_agent_links_total"]
            await manager.cut()
            told = await becomes(config, "links_total", links + 1)
            assert told["strongroom_agent_sessions_lost_total"] > lost
