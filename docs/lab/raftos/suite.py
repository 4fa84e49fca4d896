"""The engines' conformance suite for raftos and for etcd; run by `conformance`, with pytest.

Three nodes of raftos and one member of etcd serve all tests: each test finds an empty engine, in a
name of its own or after a sweep.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from cluster.engine.etcd import EtcdEngine
from cluster.engine.seam import Delete
from cluster.system import SystemEntropy
from docs.lab.raftos.engine import GIVE_UP_S, NotExpressible, RaftosEngine
from docs.lab.raftos.etcd_cluster import etcd_cluster
from docs.lab.raftos.raftos_cluster import RaftosCluster, raftos_cluster
from docs.lab.raftos.tally import Places, Tally
from tests.support.entropy import SeededEntropy
from tests.unit.engine.conformance import SMALL_QUOTA_BYTES, EngineConformance

_names = itertools.count()
_SWEEP = 100
_TRIES = 5
HEARTBEAT_S = 0.2
"""Slow enough that a busy machine costs no leader: what is tried here is no fault of anything."""


@pytest.fixture
def entropy() -> SeededEntropy:
    return SeededEntropy(1)


@pytest.fixture(scope="session")
def places(pytestconfig: pytest.Config) -> Places:
    plugins = pytestconfig.pluginmanager.get_plugins()
    return next(plugin.places for plugin in plugins if isinstance(plugin, Tally))


class Clusters:
    """Nodes that write: new ones where a test has left the old ones unable to, as a value may that
    is too large.
    """

    def __init__(self, places: Places, stack: AsyncExitStack) -> None:
        self._places = places
        self._stack = stack
        self._current: RaftosCluster | None = None

    async def writing(self) -> RaftosCluster:
        """Return nodes that have just acknowledged a write."""
        for number in itertools.count():
            if self._current is not None and await _writes(self._current):
                return self._current
            directory = self._places.directory / f"raftos-{next(_names)}"
            self._current = await self._stack.enter_async_context(
                raftos_cluster(self._places.python, directory, 3, heartbeat_s=HEARTBEAT_S)
            )
            if number == _TRIES:
                pytest.fail("no nodes of raftos write")
        raise AssertionError


async def _writes(cluster: RaftosCluster) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(GIVE_UP_S):
            await cluster.settle()
        async with asyncio.timeout(GIVE_UP_S):
            await cluster.put("between", "value")
            return True
    return False


@pytest.fixture(scope="session")
async def clusters(places: Places) -> AsyncIterator[Clusters]:
    async with AsyncExitStack() as stack:
        yield Clusters(places, stack)


@pytest.fixture(scope="session")
async def etcd(places: Places) -> AsyncIterator[EtcdEngine]:
    async with etcd_cluster(places.etcd, places.directory / "etcd", 1) as cluster:
        await cluster.settle()
        yield cluster.nodes["n1"]


class TestRaftos(EngineConformance):
    """Over the adapter."""

    @pytest.fixture
    async def engine(self, clusters: Clusters) -> RaftosEngine:
        return RaftosEngine(await clusters.writing(), f"engine-{next(_names)}")

    @pytest.fixture
    async def small_engine(self) -> None:
        raise NotExpressible("a quota")


class TestEtcd(EngineConformance):
    """As the product runs it."""

    @pytest.fixture
    async def engine(self, etcd: EtcdEngine) -> EtcdEngine:
        while entries := (await etcd.list_page(b"", limit=_SWEEP)).entries:
            gone = [Delete(entry.key) for entry in entries]
            await etcd.transact(SystemEntropy().token(16), [], gone)
        return etcd

    @pytest.fixture
    async def small_engine(self, places: Places) -> AsyncIterator[EtcdEngine]:
        small = etcd_cluster(
            places.etcd, Path(places.directory, "small"), 1, quota_bytes=SMALL_QUOTA_BYTES
        )
        async with small as cluster:
            await cluster.settle()
            yield cluster.nodes["n1"]
