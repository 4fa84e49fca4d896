"""The store over real etcd members: two managers, a lost leader, duties."""

import asyncio
from pathlib import Path

from cluster.store.audit_chain import read_chain, verify_chain
from cluster.store.records import AuditEntry
from cluster.store.sealed_store import Create, Replace, SealedStore, Write
from cluster.store.view import View
from tests.support.etcd_cluster import etcd_cluster, leader_of
from tests.support.stores import StoreLab, initialised, node, secret, value


async def verify(lab: StoreLab, store: SealedStore) -> int:
    """Verify every chain; return how many audit entries they hold."""
    await store.barrier()
    count = 0
    for stream in store.view.audit_streams:
        links = [link async for link in read_chain(lab.engine, store.keyring, stream)]
        verify_chain(links)
        count += sum(len(link.entries) for link in links)
    return count


def writing(node_id: str) -> Write:
    entry = AuditEntry(at=0.0, caller="c", action="a", resource=node_id, allowed=True)
    return Write((Create(node(node_id)),), audit=(entry,))


def count(view: View) -> Write:
    stored = view.nodes.get("counter")
    assert stored is not None
    number = int(stored.record.name) + 1
    return Write((Replace(stored, node("counter", name=str(number))),))


async def test_two_managers_on_one_member(tmp_path: Path, seed: int) -> None:
    async with etcd_cluster(tmp_path) as (member,):
        lab = await initialised(member.engine, seed)
        stores = [await lab.open("m1"), await lab.open("m2")]
        await stores[0].commit(Write((Create(node("counter", name="0")),)))
        await stores[1].commit(Write((Create(secret("s", 1)), Create(value("s", 1, b"v")))))
        await stores[1].barrier()
        await asyncio.gather(*(stores[n % 2].update(count, attempts=200) for n in range(40)))
        # A duty changes the engine's revision and no record: a barrier ends all the same.
        duty = await member.engine.campaign("placement", "m1", 10.0)
        await stores[0].commit(Write((Create(node("n1")),), guards=(duty.guard,)))
        await duty.resign()
        for store in stores:
            await store.barrier()
            stored = store.view.nodes.get("counter")
            assert stored is not None
            assert stored.record.name == "40"
            assert store.open_value("s", 1).reveal() == b"v"  # type: ignore[arg-type]  # plain ids
        await verify(lab, stores[0])
        late = await lab.open("m3")
        for node_id in ("counter", "n1"):
            assert late.view.nodes.get(node_id) == stores[0].view.nodes.get(node_id)
        for store in (*stores, late):
            await store.close()


async def test_nothing_acknowledged_is_lost_when_the_leader_is_killed(
    tmp_path: Path, seed: int
) -> None:
    async with etcd_cluster(tmp_path, 3) as members:
        leader = await leader_of(members)
        followers = [member for member in members if member is not leader]
        lab = await initialised(followers[0].engine, seed)
        stores = [await lab.open(member.name, engine=member.engine) for member in followers]
        names = [f"n{number:03}" for number in range(300)]
        writers = [
            asyncio.create_task(stores[index % 2].commit(writing(name)))
            for index, name in enumerate(names)
        ]
        await writers[0]
        await leader.kill()
        await asyncio.gather(*writers)
        for store in stores:
            await store.barrier()
            assert set(store.view.nodes) == set(names)
            assert store.view.faults == ()
        assert await verify(lab, stores[0]) == len(names)
        for store in stores:
            await store.close()
