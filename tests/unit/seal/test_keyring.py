"""The keyring: blinded keys, epochs, wrapping."""

import pytest

from cluster.protocol.errors import Conflict, InvariantViolation, NotFound, OpenFailed
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal import aead, padding
from cluster.seal import keyring as keyring_module
from cluster.seal.keyring import (
    ENGINE_KEY_SIZE,
    MAX_EPOCH,
    MAX_SEQUENCE,
    STREAM_KEY_SIZE,
    Keyring,
    new_keyring,
)
from tests.support.entropy import SeededEntropy

ROOT_KEY = SecretBytes(bytes(range(32)))


@pytest.fixture
def entropy() -> SeededEntropy:
    return SeededEntropy(2)


@pytest.fixture
def keyring(entropy: SeededEntropy) -> Keyring:
    return new_keyring(entropy)


def test_records_of_a_kind_share_a_prefix_and_nothing_else(keyring: Keyring) -> None:
    one, two = keyring.engine_key("secret", "one"), keyring.engine_key("secret", "two")
    assert len(one) == ENGINE_KEY_SIZE
    assert one[:16] == two[:16] == keyring.kind_prefix("secret")
    assert one[16:] != two[16:]
    assert keyring.kind_prefix("service") != keyring.kind_prefix("secret")


def test_the_same_id_of_another_kind_blinds_to_something_else(keyring: Keyring) -> None:
    assert keyring.engine_key("secret", "one")[16:] != keyring.engine_key("service", "one")[16:]


def test_an_id_may_hold_the_separator_but_a_kind_may_not(keyring: Keyring) -> None:
    assert keyring.engine_key("a", "b|c") != keyring.engine_key("a", "b")
    for kind in ("a|b", ""):
        with pytest.raises(InvariantViolation):
            keyring.engine_key(kind, "c")


def test_engine_keys_do_not_show_names(keyring: Keyring) -> None:
    assert b"twitter" not in keyring.engine_key("secret", "twitter")
    assert b"audit" not in keyring.stream_key("audit", 1)


def test_engine_keys_depend_on_the_index_key(keyring: Keyring, entropy: SeededEntropy) -> None:
    other = new_keyring(entropy)
    assert keyring.engine_key("secret", "one") != other.engine_key("secret", "one")


def test_stream_keys_sort_by_sequence(keyring: Keyring) -> None:
    sequences = [0, 1, 255, 256, 2**32, MAX_SEQUENCE]
    keys = [keyring.stream_key("audit", sequence) for sequence in sequences]
    assert keys == sorted(keys)
    assert {key[:16] for key in keys} == {keyring.stream_prefix("audit")}
    assert {len(key) for key in keys} == {STREAM_KEY_SIZE}


def test_a_stream_and_a_kind_of_one_name_do_not_meet(keyring: Keyring) -> None:
    assert keyring.stream_prefix("audit") != keyring.kind_prefix("audit")


@pytest.mark.parametrize("sequence", [-1, MAX_SEQUENCE + 1])
def test_a_sequence_out_of_range_is_our_own_bug(keyring: Keyring, sequence: int) -> None:
    with pytest.raises(InvariantViolation):
        keyring.stream_key("audit", sequence)


def test_a_new_epoch_keeps_names_and_older_keys(keyring: Keyring, entropy: SeededEntropy) -> None:
    newer = keyring.with_new_epoch(entropy)
    assert (keyring.current, newer.current) == (1, 2)
    assert newer.epoch_key(1) == keyring.epoch_key(1)
    assert newer.epoch_key(2) != keyring.epoch_key(1)
    assert newer.engine_key("secret", "one") == keyring.engine_key("secret", "one")


def test_a_destroyed_epoch_is_gone_and_its_number_never_returns(
    keyring: Keyring, entropy: SeededEntropy
) -> None:
    third = keyring.with_new_epoch(entropy).with_new_epoch(entropy)
    left = third.without_epoch(1).without_epoch(2)
    with pytest.raises(OpenFailed):
        left.epoch_key(1)
    assert sorted(left.with_new_epoch(entropy).epochs) == [3, 4]


def test_the_current_epoch_cannot_be_destroyed(keyring: Keyring) -> None:
    with pytest.raises(Conflict):
        keyring.without_epoch(1)


def test_an_unknown_epoch_cannot_be_destroyed(keyring: Keyring) -> None:
    with pytest.raises(NotFound):
        keyring.without_epoch(7)


def test_a_wrapped_keyring_unwraps_to_itself(keyring: Keyring, entropy: SeededEntropy) -> None:
    whole = keyring.with_new_epoch(entropy)
    assert Keyring.unwrap(ROOT_KEY, whole.wrap(ROOT_KEY, entropy)) == whole


def test_another_root_key_does_not_unwrap(keyring: Keyring, entropy: SeededEntropy) -> None:
    blob = keyring.wrap(ROOT_KEY, entropy)
    with pytest.raises(OpenFailed):
        Keyring.unwrap(SecretBytes(bytes(32)), blob)


def test_no_changed_or_missing_byte_of_a_wrapped_keyring_goes_unnoticed(
    keyring: Keyring, entropy: SeededEntropy
) -> None:
    blob = keyring.wrap(ROOT_KEY, entropy)
    flipped = [blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :] for at in range(len(blob))]
    for candidate in [*flipped, *(blob[:size] for size in range(len(blob)))]:
        with pytest.raises(OpenFailed):
            Keyring.unwrap(ROOT_KEY, candidate)


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x80", b"\x83\xa1a\x01\xa1b\x02\xa1c\x03"])
def test_authentic_bytes_that_are_no_keyring_do_not_unwrap(
    content: bytes, entropy: SeededEntropy
) -> None:
    blob = b"\x01" + aead.seal_salted(
        ROOT_KEY,
        b"strongroom keyring 1",
        padding.pad(content),
        b"\x01strongroom keyring 1",
        entropy,
    )
    with pytest.raises(OpenFailed):
        Keyring.unwrap(ROOT_KEY, blob)


def test_what_is_encoded_on_the_way_does_not_show_itself() -> None:
    content = keyring_module._Content(index_key=b"in clear", epochs={1: b"in clear"}, current=1)
    assert "in clear" not in repr(content)


def test_a_wrapped_keyring_holds_no_key_in_clear(keyring: Keyring, entropy: SeededEntropy) -> None:
    blob = keyring.wrap(ROOT_KEY, entropy)
    assert keyring.index_key.reveal() not in blob
    assert keyring.epoch_key(1).reveal() not in blob


def test_a_root_key_of_another_size_is_our_own_bug(
    keyring: Keyring, entropy: SeededEntropy
) -> None:
    with pytest.raises(InvariantViolation):
        keyring.wrap(SecretBytes(b""), entropy)


def test_a_keyring_does_not_show_itself_and_cannot_be_changed(keyring: Keyring) -> None:
    assert repr(keyring) == str(keyring) == "Keyring(<redacted>)"
    with pytest.raises(TypeError):
        keyring.epochs[2] = ROOT_KEY  # type: ignore[index]  # that it cannot is the claim


@pytest.mark.parametrize(
    ("epochs", "current"),
    [
        ({}, 1),
        ({1: 32, 2: 32}, 1),
        ({0: 32}, 0),
        ({1: 16}, 1),
        ({1: 32}, 2),
        ({MAX_EPOCH + 1: 32}, MAX_EPOCH + 1),
    ],
)
def test_an_impossible_keyring_is_our_own_bug(epochs: dict[int, int], current: int) -> None:
    keys = {epoch: SecretBytes(bytes(size)) for epoch, size in epochs.items()}
    with pytest.raises(InvariantViolation):
        Keyring(ROOT_KEY, keys, current)
