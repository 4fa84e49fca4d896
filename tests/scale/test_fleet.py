"""The fleet itself: its agents are real, and what it says of them can be wrong."""

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scale.directories import PREFIX, remove_abandoned
from tests.scale.fleet import SimulatedFleet
from tests.scale.simulated_agent import Witness
from tests.scale.sources import SourceLoop, address_of, source_address
from tests.support.running import RunningCluster, node_id_of, running_cluster, wait_until

SERVICE, SECRET = "everywhere", "credential"
UID = 20_001


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    if os.geteuid() != 0:
        pytest.skip("a fleet mounts a tmpfs")
    with running_cluster() as running:
        running.create_secret(SECRET, b"first")
        running.create_service(SERVICE, UID, SECRET, **{"global": True})
        yield running


@pytest.fixture(scope="module")
def fleet(cluster: RunningCluster) -> Iterator[SimulatedFleet]:
    with SimulatedFleet.of(cluster) as started:
        started.start(4)
        wait_until(lambda: len(started.holders(SECRET)) == 4, "every agent has the file")
        yield started


def test_addresses_are_of_loopback_and_distinct() -> None:
    addresses = {address_of(number) for number in range(150_000)}
    assert len(addresses) == 150_000
    assert all(socket.inet_aton(address)[0] == 127 for address in addresses)
    assert "127.0.0.1" not in addresses


def test_connections_leave_from_the_address_of_their_task() -> None:
    async def seen() -> list[str]:
        peers: list[str] = []

        async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peers.append(writer.get_extra_info("peername")[0])
            writer.close()

        server = await asyncio.start_server(take, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def call(address: str) -> None:
            source_address.set(address)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await reader.read()
            writer.close()

        async with server:
            for address in (address_of(0), "", address_of(70_000)):
                await asyncio.create_task(call(address))
        return peers

    with asyncio.Runner(loop_factory=SourceLoop) as runner:
        assert runner.run(seen()) == [address_of(0), "127.0.0.1", address_of(70_000)]


def test_a_witness_notes_the_first_moment_of_a_version_only() -> None:
    witness = Witness()
    witness.written({"a": 1, "b": 1})
    first = witness.held["a"].written_s
    assert witness.held["a"].acked_s is None
    witness.acked()
    acked = witness.held["a"].acked_s
    witness.written({"a": 1})
    assert (witness.held["a"].written_s, witness.held["a"].acked_s) == (first, acked)
    assert "b" not in witness.held
    witness.written({"a": 2})
    assert witness.held["a"].version == 2
    assert witness.held["a"].acked_s is None


def test_every_agent_is_a_node_of_its_own(cluster: RunningCluster, fleet: SimulatedFleet) -> None:
    nodes = {node["name"]: node for node in cluster.ok("GET", "/v1/nodes")["nodes"]}
    assert {nodes[name]["state"] for name in fleet.names} == {"ready"}
    assert len({nodes[name]["id"] for name in fleet.names}) == len(fleet.names)


def test_a_rotation_reaches_every_agent_and_latencies_are_counted_from_its_start(
    cluster: RunningCluster, fleet: SimulatedFleet
) -> None:
    started_s = time.monotonic()
    version = cluster.rotate(SECRET, b"second")
    taken_s = time.monotonic() - started_s
    latencies = fleet.wait_applied(SECRET, version, since_s=started_s)
    assert set(latencies) == set(fleet.running)
    assert all(0 < one.written_s <= one.acked_s <= taken_s for one in latencies.values())
    assert all(fleet.read(name, SERVICE) == {SECRET: b"second"} for name in fleet.names)


def test_waiting_for_what_does_not_come_names_who_lacks_it(fleet: SimulatedFleet) -> None:
    with pytest.raises(AssertionError, match=fleet.names[0]):
        fleet.wait_applied(SECRET, 10_000, since_s=time.monotonic(), patience_s=0.1)


def test_an_agent_that_left_keeps_its_files_and_has_the_newest_when_it_returns(
    cluster: RunningCluster, fleet: SimulatedFleet
) -> None:
    away, *others = fleet.names
    fleet.leave([away])
    assert set(fleet.running) == set(others)
    before = fleet.read(away, SERVICE)
    version = cluster.ok("POST", f"/v1/secrets/{SECRET}/versions", b"while it was away")["version"]
    fleet.wait_applied(SECRET, version, since_s=time.monotonic())
    assert fleet.read(away, SERVICE) == before
    taken = fleet.return_([away])
    assert set(taken) == {away}
    fleet.wait_applied(SECRET, version, since_s=time.monotonic())
    assert fleet.read(away, SERVICE) == {SECRET: b"while it was away"}


def test_agents_that_are_cut_come_back(fleet: SimulatedFleet) -> None:
    agents = [fleet.agent(name) for name in fleet.running]
    before = [agent.links_opened for agent in agents]
    fleet.cut()
    wait_until(
        lambda: all(a.links_opened > b for a, b in zip(agents, before, strict=True)),
        "every agent opened another link",
    )
    fleet.wait_synced()


def test_a_fleet_uses_certificates_of_its_agents(fleet: SimulatedFleet) -> None:
    credentials = [fleet.credential(name) for name in fleet.names]
    assert len({node_id_of(one) for one in credentials}) == len(fleet.names)


def test_what_a_killed_fleet_left_is_taken_away_and_nothing_else(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = tmp_path / f"{PREFIX}{ended.pid}-abc"
    others = [
        tmp_path / f"{PREFIX}{os.getpid()}-abc",
        tmp_path / f"{PREFIX}x-abc",
        tmp_path / "sr-1",
    ]
    for directory in (left, *others):
        (directory / "m").mkdir(parents=True)
    remove_abandoned(tmp_path)
    assert not left.exists()
    assert all(directory.exists() for directory in others)
