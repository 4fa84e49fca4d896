"""A long list comes whole, whatever its keys look like; etcd counts each of them a few times."""

import itertools
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.engine import etcd_pb2 as pb
from cluster.engine import etcd_reach
from cluster.engine.etcd import EtcdEngine
from cluster.engine.seam import Delete, Put
from tests.support.etcd_cluster import etcd_cluster
from tests.unit.engine.conformance import commit

PREFIX = b"p"
SEQUENCE = [number.to_bytes(8) for number in range(1, 401)]
LATE = [(1 << 62 | number).to_bytes(8) for number in range(400)]
SHAPES = {
    "blinded": [random.Random(f"r{number}").randbytes(32) for number in range(400)],
    "counted": SEQUENCE,
    "counted from late on": LATE,
    "in two heaps": [*SEQUENCE[:200], *LATE[:200]],
    "one place": [b"\x07" * 8 + number.to_bytes(4) for number in range(400)],
    "short": [bytes(pair) for pair in itertools.product(range(20), repeat=2)],
    "at the edges": [b"\0" * 9, b"\xff" * 8, b"\xff" * 9, *SEQUENCE, b"\0", b"\xff"],
}


@pytest.fixture
async def engine(tmp_path: Path, program: Path) -> AsyncIterator[EtcdEngine]:
    async with etcd_cluster(tmp_path, program=program) as members:
        yield members[0].engine


async def listed(engine: EtcdEngine, limit: int, at: int | None = None) -> list[bytes]:
    """Return every key under the prefix, page by page."""
    keys: list[bytes] = []
    more, revision = True, at
    while more:
        page = await engine.list_page(
            PREFIX, after=keys[-1] if keys else None, at_revision=revision, limit=limit
        )
        assert len(page.entries) <= limit
        keys += [entry.key for entry in page.entries]
        more, revision = page.more, page.revision
        assert page.entries or not more
    return keys


async def test_a_list_is_whole_and_in_order(
    engine: EtcdEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_reach, "MANY", 10)
    await commit(engine, *(Put(key, b"x") for key in (b"o\xff" * 9, b"q", b"q\0")))
    for shape, ends in SHAPES.items():
        keys = sorted(PREFIX + end for end in set(ends))
        for some in _by(keys):
            await commit(engine, *(Put(key, b"v") for key in some))
        full = await engine.barrier()
        for limit in (1, 7, 100, 1_000):
            assert await listed(engine, limit) == keys, (shape, limit)
        for some in _by(keys):
            await commit(engine, *(Delete(key) for key in some))
        assert await listed(engine, 7) == []
        assert await listed(engine, 7, full) == keys, shape


async def test_each_key_is_counted_a_few_times(
    engine: EtcdEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = sorted(PREFIX + end for end in SHAPES["blinded"])
    for some in _by(keys):
        await commit(engine, *(Put(key, b"v") for key in some))
    counted = []
    ask = engine._calls.range

    async def counting(request: pb.RangeRequest) -> pb.RangeResponse:
        reply = await ask(request)
        counted.append(reply.count)
        return reply

    monkeypatch.setattr(engine._calls, "range", counting)
    assert await listed(engine, 10) == keys
    each_page_up_to_the_end = sum(counted)
    assert each_page_up_to_the_end > 15 * len(keys)
    counted.clear()
    monkeypatch.setattr(etcd_reach, "MANY", 10)
    assert await listed(engine, 10) == keys
    assert sum(counted) < 4 * len(keys)


async def test_what_comes_behind_a_prefix_is_none_of_it(
    engine: EtcdEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_reach, "MANY", 10)
    keys = sorted(PREFIX + end for end in SHAPES["blinded"])
    for some in _by(keys):
        await commit(engine, *(Put(key, b"v") for key in some))
    assert await listed(engine, 7) == keys
    assert (await engine.list_page(PREFIX, after=b"q")).entries == ()


async def test_large_values_behind_small_ones_come_a_few_at_a_time(
    engine: EtcdEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few of them the first request met: an answer has to be one that can be received."""
    small = [PREFIX + b"a%04d" % number for number in range(100)]
    large = [PREFIX + b"b%04d" % number for number in range(60)]
    await commit(engine, *(Put(key, b"") for key in small))
    for key in large:
        await commit(engine, Put(key, b"v" * 100_000))
    wanted = []
    ask = engine._calls.range

    async def noting(request: pb.RangeRequest) -> pb.RangeResponse:
        wanted.append(request.limit)
        return await ask(request)

    monkeypatch.setattr(engine._calls, "range", noting)
    page = await engine.list_page(PREFIX, limit=10_000)
    assert [entry.key for entry in page.entries] == small + large
    assert wanted == [100, 1_000]


def _by(keys: list[bytes]) -> list[list[bytes]]:
    return [keys[at : at + 100] for at in range(0, len(keys), 100)]
