"""Audit chains: made, verified, read back."""

from dataclasses import replace
from hashlib import sha256

import msgspec
import pytest

from cluster.engine.seam import Delete
from cluster.protocol.errors import AuditChainBroken
from cluster.protocol.ids import ManagerId
from cluster.store.audit_chain import ChainHead, read_chain, verify_chain, writes_of
from cluster.store.records import AuditEntry, AuditRecord, encode
from cluster.store.sealed_store import Create, SealedStore, Write
from tests.support.stores import StoreLab, node

START = ChainHead(ManagerId("m1"), "b1", 0)


def entry(resource: str, *writes: tuple[bytes, int]) -> AuditEntry:
    return AuditEntry(
        at=0.0, caller="c", action="a", resource=resource, allowed=True, writes=writes
    )


def chain(length: int) -> list[AuditRecord]:
    head, records = START, []
    for number in range(length):
        record = head.link((entry(str(number)),), ())
        records.append(record)
        head = head.after(record)
    return records


def test_a_whole_chain_verifies() -> None:
    records = chain(5)
    verify_chain(records)
    assert records[1].previous == sha256(encode(records[0])).digest()


def test_a_chain_verifies_behind_a_checkpoint_only() -> None:
    records = chain(5)
    head = START.after(records[0]).after(records[1])
    verify_chain(records[2:], checkpoint=head)
    with pytest.raises(AuditChainBroken):
        verify_chain(records[2:])
    with pytest.raises(AuditChainBroken):
        verify_chain(records[2:], checkpoint=replace(head, digest=bytes(32)))


@pytest.mark.parametrize(
    "places",
    [[0, 1, 3, 4], [0, 1, 3, 2, 4], [0, 1, 2, 2, 3, 4], [1, 2, 3, 4]],
    ids=["gap", "order", "twice", "start"],
)
def test_a_chain_whose_links_moved_does_not_verify(places: list[int]) -> None:
    records = chain(5)
    with pytest.raises(AuditChainBroken):
        verify_chain([records[place] for place in places])


@pytest.mark.parametrize(
    "changed", [{"entries": (entry("forged"),)}, {"lane": 1}, {"boot": "b2"}, {"previous": b""}]
)
def test_a_chain_with_a_changed_link_does_not_verify(changed: dict[str, object]) -> None:
    records = chain(5)
    records[2] = msgspec.structs.replace(records[2], **changed)
    with pytest.raises(AuditChainBroken):
        verify_chain(records)


def test_links_of_an_older_format_keep_their_digest() -> None:
    # A field added later has a default, which is left out: an old link encodes as it did when it
    # was written.
    old = {"manager_id": "m1", "boot": "b1", "lane": 0, "sequence": 1, "previous": bytes(32)}
    plaintext = msgspec.msgpack.encode({**old, "entries": ()})
    assert encode(msgspec.msgpack.decode(plaintext, type=AuditRecord)) == plaintext


def test_a_link_tells_all_that_was_written() -> None:
    one = START.link((entry("x", (b"a", 1), (b"b", 2)),), ((b"c", 4),))
    assert sorted(writes_of(one)) == [(b"a", 1), (b"b", 2), (b"c", 4)]


async def links(lab: StoreLab, store: SealedStore, stream: str) -> list[AuditRecord]:
    return [link async for link in read_chain(lab.engine, store.keyring, stream)]


async def filled(store: SealedStore, count: int) -> str:
    """Commit one by one; return a stream that took several of the writes."""
    for number in range(count):
        await store.commit(Write((Create(node(f"n{number}")),), audit=(entry(f"n{number}"),)))
    await store.barrier()
    return next(iter(store.view.audit_streams))


async def test_a_stream_reads_back_in_pages(lab: StoreLab, store: SealedStore) -> None:
    await filled(store, 30)
    records = []
    for stream in store.view.audit_streams:
        chain_records = await links(lab, store, stream)
        verify_chain(chain_records)
        records += chain_records
    assert len(records) == 30


async def test_a_link_cut_out_of_the_engine_is_missed(lab: StoreLab, store: SealedStore) -> None:
    stream = await filled(store, 30)
    assert len(await links(lab, store, stream)) > 3
    await lab.write_raw(Delete(store.keyring.stream_key(stream, 2)))
    with pytest.raises(AuditChainBroken):
        verify_chain(await links(lab, store, stream))


async def test_a_link_moved_or_damaged_does_not_open(lab: StoreLab, store: SealedStore) -> None:
    stream = await filled(store, 30)
    second, third = (store.keyring.stream_key(stream, number) for number in (2, 3))
    sealed = (await lab.entry(third)).value
    await lab.put_raw(second, sealed)
    with pytest.raises(AuditChainBroken):
        await links(lab, store, stream)
    await lab.put_raw(second, bytes([*sealed[:-1], sealed[-1] ^ 1]))
    with pytest.raises(AuditChainBroken):
        await links(lab, store, stream)
