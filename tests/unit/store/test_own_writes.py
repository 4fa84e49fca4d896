"""What this manager sealed itself is believed byte by byte, and no longer than it waits."""

import asyncio

import pytest

from cluster.protocol.errors import AlreadyExists
from cluster.seal import aead
from cluster.seal.keyring import new_keyring
from cluster.store.batch import Pending, PlainPut
from cluster.store.own_writes import OwnWrites
from cluster.store.sealed_store import Create, SealedStore, Write
from tests.support.entropy import SeededEntropy
from tests.support.stores import StoreLab, node, secret

ENTROPY = SeededEntropy(1)
KEYRING = new_keyring(ENTROPY)


def pending(*keys: bytes, plaintext: bytes = b"content") -> Pending:
    return Pending(
        done=asyncio.get_running_loop().create_future(),
        compares=(),
        guards=(),
        creates=frozenset(keys),
        puts=tuple(PlainPut("node", key, 1, plaintext + key) for key in keys),
        ready=(),
        audit=(),
        writes=(),
        audit_bytes=0,
    )


def sealed(write: Pending, place: int) -> bytes:
    write.operations(KEYRING, ENTROPY)
    found = write.sealed(place)
    assert found is not None
    return found


async def test_each_put_is_known_by_its_own_bytes_under_its_own_key() -> None:
    own, write = OwnWrites(), pending(b"a", b"b")
    own.expect(write)
    first, second = sealed(write, 0), sealed(write, 1)
    assert own.plaintext(b"a", first) == b"contenta"
    assert own.plaintext(b"b", second) == b"contentb"
    assert own.plaintext(b"a", second) is own.plaintext(b"b", first) is None
    assert own.plaintext(b"c", first) is None


async def test_every_byte_counts() -> None:
    own, write = OwnWrites(), pending(b"a")
    own.expect(write)
    bytes_ = sealed(write, 0)
    for place in range(len(bytes_)):
        changed = bytearray(bytes_)
        changed[place] ^= 1
        assert own.plaintext(b"a", bytes(changed)) is None
    assert own.plaintext(b"a", bytes_[:-1]) is own.plaintext(b"a", b"") is None
    assert own.plaintext(b"a", bytes_) == b"contenta", "the control"


async def test_nothing_is_known_before_it_is_sealed() -> None:
    own, write = OwnWrites(), pending(b"a")
    own.expect(write)
    assert own.plaintext(b"a", b"") is None


async def test_what_was_sealed_under_an_earlier_keyring_is_not_known_any_more() -> None:
    own, write = OwnWrites(), pending(b"a")
    own.expect(write)
    before = sealed(write, 0)
    write.operations(KEYRING.with_new_epoch(ENTROPY), ENTROPY)
    assert own.plaintext(b"a", before) is None


async def test_a_forgotten_write_is_not_known_and_another_of_its_key_stays() -> None:
    own, first, second = OwnWrites(), pending(b"a"), pending(b"a", plaintext=b"later")
    own.expect(first)
    own.expect(second)
    own.forget(first)
    assert own.plaintext(b"a", sealed(second, 0)) == b"latera"
    own.forget(second)
    assert own.plaintext(b"a", sealed(second, 0)) is None


async def test_a_manager_reads_of_its_own_write_what_another_opens(
    lab: StoreLab, store: SealedStore
) -> None:
    other = await lab.open("m2")
    revision = await store.commit(Write((Create(node("n1")), Create(secret("s", 1, 2)))))
    await other.view.wait_for(revision, 30.0)
    for mine, theirs in ((store.view.nodes, other.view.nodes),
                         (store.view.secrets, other.view.secrets)):  # fmt: skip
        assert mine.values() == theirs.values()
        assert len(mine) == 1


async def test_only_what_others_wrote_is_opened(
    lab: StoreLab, store: SealedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port to the cipher counts; everything behind it is real."""
    other = await lab.open("m2")
    opened: list[bytes] = []
    open_ = aead.Opener.open

    def counting(self: aead.Opener, sealed: bytes, associated: bytes) -> bytes:
        opened.append(associated)
        return open_(self, sealed, associated)

    monkeypatch.setattr(aead.Opener, "open", counting)
    revision = await store.commit(Write((Create(node("n1")),)))
    await other.view.wait_for(revision, 30.0)
    key = lab.key(node("n1").kind, "n1")
    assert sum(key in associated for associated in opened) == 1, "by the other"


@pytest.mark.parametrize("end", ["committed", "refused", "given up"])
async def test_nothing_is_kept_longer_than_its_writer_waits(store: SealedStore, end: str) -> None:
    write = Write((Create(node("n1")),))
    if end == "refused":
        await store.commit(write)
        with pytest.raises(AlreadyExists):
            await store.commit(write)
    elif end == "given up":
        waiting = asyncio.create_task(store.commit(write))
        await asyncio.sleep(0)
        assert store._own._sent, "the control: it is under way"
        waiting.cancel()
        await asyncio.wait([waiting])
    else:
        await store.commit(write)
    assert store._own._sent == {}
