"""Controls of what protects the store: each attack fails beside the mechanism and succeeds without
it. The mechanism is taken out of the real parts, in the test alone.
"""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from cluster.control.refusals import ENTRIES_PER_MINUTE, Refusals
from cluster.engine.seam import Put
from cluster.engine.sqlite import SqliteEngine
from cluster.protocol.errors import IntegrityError, OpenFailed
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal import aead, envelope, padding
from cluster.seal.keyring import Keyring
from cluster.seal.record_keys import RecordKeys
from cluster.store.history import History
from cluster.store.migration import StoreCopy, successor
from cluster.store.records import AuditEntry, Kind, NodeRecord, encode
from cluster.store.sealed_store import Create, Replace, SealedStore, Write
from cluster.store.view import Stored
from cluster.system import Entropy
from tests.support.clock import ManualClock
from tests.support.stores import StoreLab

CANARY = "canary-7f3a"


def named(name: str, **fields: object) -> NodeRecord:
    return NodeRecord(id="n1", name=name, created_at=0.0, **fields)  # type: ignore[arg-type]  # fields of a record


def node_of(store: SealedStore) -> Stored[NodeRecord]:
    found = store.view.nodes.get("n1")
    assert found is not None
    return found


def files_hold(directory: Path, needle: str) -> bool:
    return any(
        needle.encode() in path.read_bytes() for path in directory.rglob("*") if path.is_file()
    )


@pytest.mark.control("T-01", without="cluster/seal/envelope.py::seal_record")
async def test_names_rest_sealed(
    stores: StoreLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await stores.open("m1")
    await store.commit(Write((Create(named(CANARY)),)))
    assert not files_hold(tmp_path, CANARY)

    def in_clear(
        _keys: RecordKeys,
        _key: SecretBytes,
        _info: bytes,
        plaintext: bytes,
        _associated: bytes,
        _entropy: Entropy,
    ) -> bytes:
        return bytes(aead.SALTED_OVERHEAD) + plaintext

    monkeypatch.setattr(RecordKeys, "seal", in_clear)
    await store.commit(Write((Create(NodeRecord(id="n2", name=CANARY, created_at=0.0)),)))
    assert files_hold(tmp_path, CANARY)


def keystream(
    _keys: RecordKeys, key: SecretBytes, _epoch: int, info: bytes, sealed: bytes, _associated: bytes
) -> bytes:
    """Decrypt as AES-GCM does, and look at no tag: NIST SP 800-38D without its last step."""
    salt, nonce = sealed[: aead.SALT_SIZE], sealed[aead.SALT_SIZE :][: aead.NONCE_SIZE]
    cipher = algorithms.AES(aead.derive(key, salt, info).reveal())
    decryptor = Cipher(cipher, modes.CTR(nonce + (2).to_bytes(4))).decryptor()
    return decryptor.update(sealed[aead.SALT_SIZE + aead.NONCE_SIZE : -aead.TAG_SIZE])


@pytest.mark.control("T-02", without="cluster/seal/envelope.py::open_record")
async def test_changed_byte_is_noticed(stores: StoreLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the tag a node's name is whatever the store writer makes of it."""
    store = await stores.open("m1")
    record = named("mary")
    await store.commit(Write((Create(record),)))
    key = stores.key(Kind.NODE, "n1")
    sealed = bytearray((await stores.entry(key)).value)
    overhead = len(sealed) - aead.TAG_SIZE - len(padding.pad(encode(record)))
    sealed[overhead + padding.pad(encode(record)).index(b"mary")] ^= ord("m") ^ ord("g")
    await stores.put_raw(key, bytes(sealed))
    with pytest.raises(IntegrityError):
        node_of(await stores.open("late"))
    monkeypatch.setattr(RecordKeys, "open", keystream)
    assert node_of(await stores.open("later")).record.name == "gary"


@pytest.mark.control("T-03", without="cluster/seal/envelope.py::open_record")
def test_place_is_bound(stores: StoreLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without associated data what lay under one key opens under another."""

    def exchanged() -> bytes:
        sealed = envelope.seal_record(
            stores.keyring, kind="node", engine_key=b"one", generation=1, plaintext=b"mine",
            entropy=stores.entropy,
        )  # fmt: skip
        return envelope.open_record(
            stores.keyring, kind="node", engine_key=b"two", sealed=sealed
        ).plaintext

    with pytest.raises(OpenFailed):
        exchanged()
    monkeypatch.setattr(envelope, "_bound", lambda *_: b"")
    assert exchanged() == b"mine"


async def put_back(stores: StoreLab, boot: str) -> SealedStore:
    """Evict a node, then put its record of before back; return the manager that saw both."""
    store = await stores.open("m1", boot)
    if store.view.nodes.get("n1") is None:
        await store.commit(Write((Create(named("thief")),)))
    before = (await stores.entry(stores.key(Kind.NODE, "n1"))).value
    await store.commit(Write((Replace(node_of(store), named("thief", revoked_at=1.0)),)))
    revision = await stores.put_raw(stores.key(Kind.NODE, "n1"), before)
    await store.view.wait_for(revision, 30.0)
    return store


@pytest.mark.control("T-04", without="cluster/store/history.py::History")
async def test_older_state_is_noticed(stores: StoreLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a memory of generations an evicted node is back."""
    with pytest.raises(IntegrityError):
        node_of(await put_back(stores, "b1"))
    admit = History.admit

    def believe(self: History, *state: object, **how: object) -> None:
        admit(self, *state, **how)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(History, "admit", believe)
    assert node_of(await put_back(stores, "b2")).record.revoked_at is None


@pytest.mark.control("T-14", without="cluster/control/refusals.py::Refusals")
def test_refusals_are_coalesced_and_bounded(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an allowance, and without equal ones becoming one, each is an entry."""

    def entries() -> int:
        refusals = Refusals(clock)
        for number in range(4 * ENTRIES_PER_MINUTE):
            refusals.note(
                AuditEntry(
                    at=0.0, caller=f"c{number}", action="secret.list", resource="", allowed=False
                )
            )
        return len(refusals.take())

    assert entries() == ENTRIES_PER_MINUTE + 1
    monkeypatch.setattr(Refusals, "_allowance", lambda _self: 10**9)
    assert entries() == 4 * ENTRIES_PER_MINUTE


async def put_back_after_migration(
    stores: StoreLab, before: bytes, directory: Path, fresh: Keyring
) -> NodeRecord:
    """Migrate under `fresh`, put a node's record of before into the new engine, and look at it."""
    directory.mkdir()
    target = await SqliteEngine.open(directory / "store.db", ManualClock())
    copy = StoreCopy(stores.engine, target, stores.keyring, fresh, stores.entropy)
    assert [done async for done in copy.run(stores.root_key)]
    key = stores.key(Kind.NODE, "n1")
    await target.transact(stores.entropy.token(16), (), [Put(key, before)])
    store = await stores.open("m1", keyring=fresh, engine=target, boot=directory.name)
    try:
        return node_of(store).record
    finally:
        await store.close()
        await target.close()


@pytest.mark.control("T-51", without="cluster/store/migration.py::successor")
async def test_old_state_does_not_follow_a_migration(stores: StoreLab, tmp_path: Path) -> None:
    """A node is evicted, and the store migrated. With the keyring of before in the new engine, the
    node's record from the old one's files opens there, and the node is back."""
    store = await stores.open("m1")
    await store.commit(Write((Create(named("thief")),)))
    before = (await stores.entry(stores.key(Kind.NODE, "n1"))).value
    await store.commit(Write((Replace(node_of(store), named("thief", revoked_at=1.0)),)))
    await store.close()
    fresh = successor(stores.keyring, stores.entropy)
    with pytest.raises(IntegrityError):
        await put_back_after_migration(stores, before, tmp_path / "fresh", fresh)
    same = stores.keyring
    found = await put_back_after_migration(stores, before, tmp_path / "same", same)
    assert found.revoked_at is None
