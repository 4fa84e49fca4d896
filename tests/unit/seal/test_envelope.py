"""The record envelope: what opens, and that nothing else does."""

import pytest

from cluster.protocol.errors import InvariantViolation, OpenFailed
from cluster.seal import aead, padding
from cluster.seal.envelope import (
    FORMAT,
    MAX_GENERATION,
    Header,
    open_record,
    peek,
    seal_record,
    sealed_size,
)
from cluster.seal.keyring import Keyring, new_keyring
from tests.support.entropy import SeededEntropy

HEADER_SIZE = 13
KIND = "secret-value"
PLAINTEXT = b"correct horse battery staple"


@pytest.fixture
def entropy() -> SeededEntropy:
    return SeededEntropy(1)


@pytest.fixture
def keyring(entropy: SeededEntropy) -> Keyring:
    return new_keyring(entropy)


@pytest.fixture
def engine_key(keyring: Keyring) -> bytes:
    return keyring.engine_key(KIND, "one")


@pytest.fixture
def sealed(keyring: Keyring, engine_key: bytes, entropy: SeededEntropy) -> bytes:
    return seal_record(
        keyring,
        kind=KIND,
        engine_key=engine_key,
        generation=7,
        plaintext=PLAINTEXT,
        entropy=entropy,
    )


def test_a_sealed_record_opens_to_what_went_in(
    keyring: Keyring, engine_key: bytes, sealed: bytes
) -> None:
    opened = open_record(keyring, kind=KIND, engine_key=engine_key, sealed=sealed)
    assert (opened.generation, opened.epoch, opened.plaintext) == (7, 1, PLAINTEXT)


def test_a_sealed_record_shows_format_epoch_and_generation_only(sealed: bytes) -> None:
    assert peek(sealed) == Header(FORMAT, 1, 7)
    assert PLAINTEXT not in sealed
    assert len(sealed) == HEADER_SIZE + aead.SALTED_OVERHEAD + padding.MINIMUM_SIZE


@pytest.mark.parametrize("size", [0, 1, 254, 255, 256, 1_024, 100_000])
def test_the_size_of_a_sealed_record_is_known_before(
    keyring: Keyring, engine_key: bytes, entropy: SeededEntropy, size: int
) -> None:
    sealed = seal_record(
        keyring, kind=KIND, engine_key=engine_key, generation=1, plaintext=bytes(size),
        entropy=entropy,
    )  # fmt: skip
    assert len(sealed) == sealed_size(size)


def test_what_is_bound_is_framed(keyring: Keyring, engine_key: bytes, sealed: bytes) -> None:
    """The envelope frames by hand what `aead.frame` would: checked with the primitives alone."""
    bound = aead.frame(b"\x01", KIND.encode(), engine_key, (1).to_bytes(4), (7).to_bytes(8))
    info = b"strongroom record 1|" + KIND.encode()
    padded = aead.open_salted(keyring.epoch_key(1), info, sealed[HEADER_SIZE:], bound)
    assert padding.unpad(padded) == PLAINTEXT


def test_no_changed_byte_goes_unnoticed(keyring: Keyring, engine_key: bytes, sealed: bytes) -> None:
    for position in range(len(sealed)):
        for flip in (0x01, 0x80, 0xFF):
            tampered = bytearray(sealed)
            tampered[position] ^= flip
            with pytest.raises(OpenFailed):
                open_record(keyring, kind=KIND, engine_key=engine_key, sealed=bytes(tampered))


def test_no_shortened_or_lengthened_record_opens(
    keyring: Keyring, engine_key: bytes, sealed: bytes
) -> None:
    for candidate in [*(sealed[:size] for size in range(len(sealed))), sealed + b"\0"]:
        with pytest.raises(OpenFailed):
            open_record(keyring, kind=KIND, engine_key=engine_key, sealed=candidate)


def test_a_record_moved_under_another_key_does_not_open(keyring: Keyring, sealed: bytes) -> None:
    other = keyring.engine_key(KIND, "two")
    with pytest.raises(OpenFailed):
        open_record(keyring, kind=KIND, engine_key=other, sealed=sealed)


def test_a_record_read_as_another_kind_does_not_open(
    keyring: Keyring, engine_key: bytes, sealed: bytes
) -> None:
    with pytest.raises(OpenFailed):
        open_record(keyring, kind="service", engine_key=engine_key, sealed=sealed)


@pytest.mark.parametrize("generation", [0, 6, 8, MAX_GENERATION])
def test_a_record_cannot_claim_another_generation(
    keyring: Keyring, engine_key: bytes, sealed: bytes, generation: int
) -> None:
    forged = sealed[:5] + generation.to_bytes(8) + sealed[HEADER_SIZE:]
    assert peek(forged).generation == generation
    with pytest.raises(OpenFailed):
        open_record(keyring, kind=KIND, engine_key=engine_key, sealed=forged)


def test_a_record_cannot_claim_another_epoch(
    keyring: Keyring, engine_key: bytes, sealed: bytes, entropy: SeededEntropy
) -> None:
    forged = sealed[:1] + (2).to_bytes(4) + sealed[5:]
    assert peek(forged).epoch == 2
    with pytest.raises(OpenFailed):
        open_record(
            keyring.with_new_epoch(entropy), kind=KIND, engine_key=engine_key, sealed=forged
        )


def test_one_record_sealed_twice_shares_no_bytes_but_the_header(
    keyring: Keyring, engine_key: bytes, sealed: bytes, entropy: SeededEntropy
) -> None:
    again = seal_record(
        keyring,
        kind=KIND,
        engine_key=engine_key,
        generation=7,
        plaintext=PLAINTEXT,
        entropy=entropy,
    )
    assert again[:HEADER_SIZE] == sealed[:HEADER_SIZE]
    salt_and_nonce = slice(HEADER_SIZE, HEADER_SIZE + aead.SALT_SIZE + aead.NONCE_SIZE)
    assert again[salt_and_nonce] != sealed[salt_and_nonce]
    assert again[salt_and_nonce.stop :] != sealed[salt_and_nonce.stop :]


def test_old_epochs_open_until_they_are_destroyed(
    keyring: Keyring, engine_key: bytes, sealed: bytes, entropy: SeededEntropy
) -> None:
    newer = keyring.with_new_epoch(entropy)
    opened = open_record(newer, kind=KIND, engine_key=engine_key, sealed=sealed)
    assert (opened.epoch, newer.current) == (1, 2)
    with pytest.raises(OpenFailed):
        open_record(newer.without_epoch(1), kind=KIND, engine_key=engine_key, sealed=sealed)


def test_every_failure_reads_the_same(
    keyring: Keyring, engine_key: bytes, sealed: bytes, entropy: SeededEntropy
) -> None:
    unknown_format = b"\x02" + sealed[1:]
    unknown_epoch = sealed[:1] + (9).to_bytes(4) + sealed[5:]
    wrong_tag = sealed[:-1] + bytes([sealed[-1] ^ 1])
    messages = set()
    for candidate in (b"", sealed[:20], unknown_format, unknown_epoch, wrong_tag):
        with pytest.raises(OpenFailed) as caught:
            open_record(keyring, kind=KIND, engine_key=engine_key, sealed=candidate)
        assert caught.value.__cause__ is None
        messages.add(caught.value.message)
    with pytest.raises(OpenFailed) as caught:
        open_record(new_keyring(entropy), kind=KIND, engine_key=engine_key, sealed=sealed)
    messages.add(caught.value.message)
    assert messages == {OpenFailed().message}


def test_what_was_opened_does_not_show_itself(
    keyring: Keyring, engine_key: bytes, sealed: bytes
) -> None:
    opened = open_record(keyring, kind=KIND, engine_key=engine_key, sealed=sealed)
    assert "horse" not in repr(opened)


@pytest.mark.parametrize("generation", [-1, MAX_GENERATION + 1])
def test_a_generation_out_of_range_is_our_own_bug(
    keyring: Keyring, engine_key: bytes, entropy: SeededEntropy, generation: int
) -> None:
    with pytest.raises(InvariantViolation):
        seal_record(
            keyring,
            kind=KIND,
            engine_key=engine_key,
            generation=generation,
            plaintext=b"",
            entropy=entropy,
        )
