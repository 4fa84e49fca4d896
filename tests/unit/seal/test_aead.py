"""The primitives: sizes, bindings and refusals. Known answers are in tests/vectors."""

import pytest

from cluster.protocol.errors import InvalidRequest, InvariantViolation, OpenFailed
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal import aead
from tests.support.entropy import SeededEntropy

KEY = SecretBytes(bytes(range(32)))
NONCE = bytes(12)
LOW_ORDER_POINTS = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (2**255 - 20).to_bytes(32, "little"),  # p - 1
]


def test_framing_tells_where_a_part_ends() -> None:
    assert aead.frame(b"ab", b"c") != aead.frame(b"a", b"bc")
    assert aead.frame(b"a") != aead.frame(b"a", b"")
    assert aead.frame(b"ab") == b"\0\0\0\2ab"


def test_derived_keys_differ_by_salt_and_by_info() -> None:
    derived = [
        aead.derive(KEY, salt, info).reveal()
        for salt in (b"", b"salt")
        for info in (b"one", b"two")
    ]
    assert len(set(derived)) == 4
    assert {len(key) for key in derived} == {32}


def test_blinding_depends_on_key_and_label() -> None:
    other = SecretBytes(bytes(32))
    blinded = {aead.blind(key, label) for key in (KEY, other) for label in (b"a", b"b")}
    assert len(blinded) == 4


def test_associated_data_is_bound() -> None:
    sealed = aead.seal(KEY, NONCE, b"value", b"place one")
    assert aead.open_(KEY, NONCE, sealed, b"place one") == b"value"
    with pytest.raises(OpenFailed):
        aead.open_(KEY, NONCE, sealed, b"place two")


@pytest.mark.parametrize(("key_size", "nonce_size"), [(16, 12), (31, 12), (32, 8), (32, 16)])
def test_other_key_and_nonce_sizes_are_our_own_bug(key_size: int, nonce_size: int) -> None:
    with pytest.raises(InvariantViolation):
        aead.seal(SecretBytes(bytes(key_size)), bytes(nonce_size), b"", b"")


def test_salted_sealing_binds_its_purpose() -> None:
    sealed = aead.seal_salted(KEY, b"purpose", b"value", b"place", SeededEntropy())
    assert aead.open_salted(KEY, b"purpose", sealed, b"place") == b"value"
    assert len(sealed) == len(b"value") + aead.SALTED_OVERHEAD
    with pytest.raises(OpenFailed):
        aead.open_salted(KEY, b"another", sealed, b"place")


def test_hpke_opens_for_the_recipient_alone() -> None:
    recipient, other = aead.hpke_keypair(), aead.hpke_keypair()
    sealed = aead.hpke_seal(recipient.public_key, "join", b"manager", SecretBytes(b"root key"))
    opened = aead.hpke_open(recipient.private_key, "join", b"manager", sealed)
    assert opened == SecretBytes(b"root key")
    with pytest.raises(OpenFailed):
        aead.hpke_open(other.private_key, "join", b"manager", sealed)


@pytest.mark.parametrize(
    ("purpose", "context"), [("joi", b"nmanager"), ("join", b"another"), ("renew", b"manager")]
)
def test_hpke_binds_purpose_and_context(purpose: str, context: bytes) -> None:
    recipient = aead.hpke_keypair()
    sealed = aead.hpke_seal(recipient.public_key, "join", b"manager", SecretBytes(b"root key"))
    with pytest.raises(OpenFailed):
        aead.hpke_open(recipient.private_key, purpose, context, sealed)


def test_no_changed_or_missing_byte_of_an_hpke_message_goes_unnoticed() -> None:
    recipient = aead.hpke_keypair()
    sealed = aead.hpke_seal(recipient.public_key, "join", b"", SecretBytes(b"root key"))
    flipped = [
        sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :] for at in range(len(sealed))
    ]
    for candidate in [*flipped, *(sealed[:size] for size in range(len(sealed)))]:
        with pytest.raises(OpenFailed):
            aead.hpke_open(recipient.private_key, "join", b"", candidate)


def test_hpke_refuses_a_message_from_a_point_of_low_order() -> None:
    recipient = aead.hpke_keypair()
    for point in LOW_ORDER_POINTS:
        with pytest.raises(OpenFailed):
            aead.hpke_open(recipient.private_key, "join", b"", point + bytes(32))


@pytest.mark.parametrize("public_key", [b"", bytes(31), bytes(33), *LOW_ORDER_POINTS])
def test_hpke_refuses_to_seal_to_a_key_that_anybody_could_open(public_key: bytes) -> None:
    with pytest.raises(InvalidRequest):
        aead.hpke_seal(public_key, "join", b"", SecretBytes(b"root key"))


def test_a_key_pair_does_not_show_its_private_half() -> None:
    pair = aead.hpke_keypair()
    assert "redacted" in repr(pair)
    assert repr(pair.private_key.reveal()) not in repr(pair)
