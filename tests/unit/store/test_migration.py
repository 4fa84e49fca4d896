"""A store copied into another engine: the same records, links and generations under other keys."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.engine.seam import Delete
from cluster.engine.sqlite import SqliteEngine
from cluster.protocol.errors import AlreadyExists, IntegrityError, OpenFailed
from cluster.seal.envelope import open_record, peek
from cluster.seal.keyring import Keyring
from cluster.store.key_epochs import load_wrapped_keyring
from cluster.store.migration import StoreCopy, fingerprint, successor
from cluster.store.records import AuditEntry, Kind
from cluster.store.sealed_store import Create, Replace, Write
from cluster.store.start_check import read_tale
from tests.support.clock import ManualClock
from tests.support.stores import StoreLab, node, secret, sqlite_lab, value

CANARY = b"canary-value"


@dataclass
class Two:
    """A store with a past, and an empty engine."""

    lab: StoreLab
    target: SqliteEngine
    fresh: Keyring

    def copy(self) -> StoreCopy:
        return StoreCopy(
            self.lab.engine, self.target, self.lab.keyring, self.fresh, self.lab.entropy
        )

    async def run(self) -> list[int]:
        return [done async for done in self.copy().run(self.lab.root_key)]


@pytest.fixture
async def two(tmp_path: Path, seed: int) -> AsyncIterator[Two]:
    async with sqlite_lab(tmp_path, seed) as lab:
        store = await lab.open("m1")
        entry = AuditEntry(at=0.0, caller="c", action="a", resource="r", allowed=True)
        await store.commit(Write((Create(secret("s", 1)), Create(value("s", 1, CANARY))), (entry,)))
        for number in range(120):
            await store.commit(Write((Create(node(f"n{number}")),), (entry,)))
        for name in ("one", "two", "three"):
            stored = store.view.nodes.get("n0")
            assert stored is not None
            await store.commit(Write((Replace(stored, node("n0", name=name)),)))
        await store.close()
        (tmp_path / "target").mkdir()
        target = await SqliteEngine.open(tmp_path / "target" / "store.db", ManualClock())
        yield Two(lab, target, successor(lab.keyring, lab.entropy))
        await target.close()


async def test_copy_is_the_store(two: Two) -> None:
    before = await fingerprint(two.lab.engine, two.lab.keyring)
    told = await two.run()
    assert told == sorted(told)
    assert told[-1] == before.count
    assert await fingerprint(two.target, two.fresh) == before
    wrapped = await load_wrapped_keyring(two.target)
    assert wrapped is not None
    keyring = Keyring.unwrap(two.lab.root_key, wrapped)
    copied = await two.lab.open("m1", keyring=keyring, engine=two.target, boot="later")
    stored = copied.view.nodes.get("n0")
    assert stored is not None
    assert (stored.record.name, stored.generation) == ("three", 4)
    assert copied.open_value("s", 1).reveal() == CANARY  # type: ignore[arg-type]  # plain ids
    tale = await read_tale(copied)
    assert tale.wrong == []
    assert tale.links > 120
    await copied.commit(Write((Create(node("after")),)))
    assert (await read_tale(copied)).wrong == []


@pytest.mark.threat("T-51")
async def test_nothing_sealed_before_opens_afterwards(two: Two) -> None:
    """And nothing that the copy holds opens with the old keyring."""
    await two.run()
    key = two.lab.key(Kind.NODE, "n0")
    old, new = await two.lab.engine.read(key), await two.target.read(key)
    assert old is not None
    assert new is not None
    assert peek(new.value).epoch == two.fresh.current == two.lab.keyring.current + 1
    for keyring, sealed in ((two.fresh, old.value), (two.lab.keyring, new.value)):
        with pytest.raises(OpenFailed):
            open_record(keyring, kind="node", engine_key=key, sealed=sealed)


async def test_links_keep_the_order_of_their_transactions(two: Two) -> None:
    """What was committed after another is so in the copy, whatever chain it belongs to."""
    other = await two.lab.open("m2")
    for number in range(3):
        await other.commit(Write((Create(node(f"by-m2-{number}")),)))
        stored = other.view.nodes.get("n0")
        assert stored is not None
    await other.close()
    await two.run()
    orders = []
    for engine in (two.lab.engine, two.target):
        page = await engine.list_page(b"")
        streams = [two.fresh.stream_prefix(s) for s in other.view.audit_streams]
        links = [e for e in page.entries if e.key[:16] in streams]
        revisions = [link.mod_revision for link in links]
        assert len(set(revisions)) == len(revisions)
        orders.append([e.key for e in sorted(links, key=lambda link: link.mod_revision)])
    assert orders[0] == orders[1]
    assert len(orders[0]) > 120


async def test_fingerprint_tells_a_change_and_holds_no_value(two: Two) -> None:
    before = await fingerprint(two.lab.engine, two.lab.keyring)
    await two.run()
    for gone in (two.lab.key(Kind.NODE, "n7"), two.lab.key(Kind.SECRET, "s")):
        await two.target.transact(two.lab.entropy.token(16), (), [Delete(gone)])
        assert await fingerprint(two.target, two.fresh) != before
    assert CANARY.hex() not in before.digest
    assert two.lab.keyring.engine_key("fingerprint", "").hex() != before.digest


async def test_an_engine_that_holds_a_store_is_not_written_over(two: Two) -> None:
    await two.run()
    with pytest.raises(AlreadyExists):
        await two.run()


async def test_what_does_not_open_is_not_copied(two: Two) -> None:
    key = two.lab.key(Kind.NODE, "n3")
    sealed = bytearray((await two.lab.entry(key)).value)
    sealed[-1] ^= 1
    await two.lab.put_raw(key, bytes(sealed))
    with pytest.raises(IntegrityError):
        await fingerprint(two.lab.engine, two.lab.keyring)
    with pytest.raises(IntegrityError):
        await two.run()
