"""One salt for many records: no nonce twice under a key, and nothing opens that did not before."""

import pytest

from cluster.protocol.errors import InvariantViolation, OpenFailed
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal import aead, record_keys
from cluster.seal.envelope import open_record, seal_record
from cluster.seal.keyring import Keyring, new_keyring
from tests.support.entropy import SeededEntropy

SALT = slice(13, 13 + aead.SALT_SIZE)
NONCE = slice(SALT.stop, SALT.stop + aead.NONCE_SIZE)
KEY = SecretBytes(bytes(32))


class ConstantEntropy(SeededEntropy):
    """The worst source there is: always the same."""

    def token(self, size: int) -> bytes:
        """Return zeros."""
        return bytes(size)


@pytest.fixture
def entropy(seed: int) -> SeededEntropy:
    return SeededEntropy(seed)


@pytest.fixture
def keyring(entropy: SeededEntropy) -> Keyring:
    return new_keyring(entropy)


def seal(keyring: Keyring, entropy: SeededEntropy, kind: str = "node", name: str = "n") -> bytes:
    return seal_record(
        keyring,
        kind=kind,
        engine_key=keyring.engine_key(kind, name),
        generation=1,
        plaintext=name.encode(),
        entropy=entropy,
    )


def opens(keyring: Keyring, sealed: bytes, kind: str = "node", name: str = "n") -> bytes:
    engine_key = keyring.engine_key(kind, name)
    return open_record(keyring, kind=kind, engine_key=engine_key, sealed=sealed).plaintext


def test_no_nonce_comes_twice_under_a_key_however_bad_the_randomness() -> None:
    sealer, entropy = aead.Sealer(KEY, b"kind", ConstantEntropy()), ConstantEntropy()
    sealed = [sealer.seal(b"same", b"", entropy) for _ in range(aead.SEALS_PER_SALT)]
    heads = {one[: aead.SALT_SIZE + aead.NONCE_SIZE] for one in sealed}
    assert len(heads) == aead.SEALS_PER_SALT
    assert sealer.spent
    with pytest.raises(InvariantViolation):
        sealer.seal(b"same", b"", entropy)


def test_a_nonce_is_random_as_well(entropy: SeededEntropy) -> None:
    """A manager whose machine was copied as it ran goes on with the same salt and count."""
    sealer = aead.Sealer(KEY, b"kind", entropy)
    counts = {sealer.seal(b"", b"", entropy)[36:44] for _ in range(100)}
    assert len(counts) == 100


def test_a_salt_serves_its_share_of_one_kind(keyring: Keyring, entropy: SeededEntropy) -> None:
    salts = [seal(keyring, entropy)[SALT] for _ in range(aead.SEALS_PER_SALT + 1)]
    assert len(set(salts[:-1])) == 1
    assert salts[-1] != salts[0]
    assert seal(keyring, entropy, "name")[SALT] not in salts


def test_managers_and_epochs_have_salts_of_their_own(
    keyring: Keyring, entropy: SeededEntropy
) -> None:
    root_key = SecretBytes(entropy.token(32))
    other = Keyring.unwrap(root_key, keyring.wrap(root_key, entropy))
    later = keyring.with_new_epoch(entropy)
    assert other == keyring
    assert len({seal(one, entropy)[SALT] for one in (keyring, other, later)}) == 3
    assert opens(other, seal(keyring, entropy)) == b"n"


def test_a_key_that_is_remembered_opens_nothing_else(
    keyring: Keyring, entropy: SeededEntropy
) -> None:
    one, two = seal(keyring, entropy, name="one"), seal(keyring, entropy, name="two")
    assert one[SALT] == two[SALT]
    assert (opens(keyring, one, name="one"), opens(keyring, two, name="two")) == (b"one", b"two")
    with pytest.raises(OpenFailed):
        opens(keyring, one, name="two")
    with pytest.raises(OpenFailed):
        opens(keyring, one, kind="name", name="one")
    for place in range(len(one)):
        changed = bytearray(one)
        changed[place] ^= 1
        with pytest.raises(OpenFailed):
            opens(keyring, bytes(changed), name="one")
    with pytest.raises(OpenFailed):
        opens(keyring, one[: NONCE.stop], name="one")


def test_nothing_of_a_destroyed_epoch_is_remembered(
    keyring: Keyring, entropy: SeededEntropy
) -> None:
    sealed = seal(keyring, entropy)
    both = keyring.with_new_epoch(entropy)
    assert opens(both, sealed) == b"n"
    with pytest.raises(OpenFailed):
        opens(both.without_epoch(1), sealed)


def test_keys_are_remembered_up_to_a_number_and_only_those_that_open(
    keyring: Keyring, entropy: SeededEntropy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_keys, "MAX_OPENERS", 4)
    kinds = [f"kind-{number}" for number in range(10)]
    sealed = [seal(keyring, entropy, kind) for kind in kinds]
    for one in sealed:
        with pytest.raises(OpenFailed):
            opens(keyring, one, "other")
    assert keyring.record_keys._openers == {}
    for _ in range(2):
        for kind, one in zip(kinds, sealed, strict=True):
            assert opens(keyring, one, kind) == b"n"
            assert len(keyring.record_keys._openers) <= 4


def test_a_record_with_a_salt_of_its_own_opens_and_is_not_remembered(
    keyring: Keyring, entropy: SeededEntropy
) -> None:
    """What version 0.1.0 sealed: a random nonce, which looks like a count once in four million."""
    bound, info, key = b"place", b"info", keyring.epoch_key(1)
    salt, nonce = entropy.token(aead.SALT_SIZE), b"\xff" + entropy.token(aead.NONCE_SIZE - 1)
    derived = aead.derive(key, salt, info)
    sealed = salt + nonce + aead.seal(derived, nonce, b"earlier", bound)
    keys = keyring.record_keys
    assert keys.open(key, 1, info, sealed, bound) == b"earlier"
    assert keys._openers == {}
    counted = keys.seal(key, info, b"now", bound, entropy)
    assert keys.open(key, 1, info, counted, bound) == b"now"
    assert len(keys._openers) == 1, "the control"
