"""Values that the manager makes: their form, their strength, their limits."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cluster.control.generators import recipe
from cluster.protocol.errors import InvalidRequest
from tests.support.entropy import SeededEntropy


def test_password_is_of_letters_that_need_no_quoting(seed: int) -> None:
    value = recipe("password", 4096).make(SeededEntropy(seed)).reveal().decode()
    assert len(value) == 4096
    assert set(value) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    # Each of the 64 comes about 64 times; one that never came would say that bits are lost.
    assert len(set(value)) == 64


@pytest.mark.parametrize("kind", ["password", "hex"])
def test_draws_differ(seed: int, kind: str) -> None:
    entropy = SeededEntropy(seed)
    assert len({recipe(kind).make(entropy).reveal() for _ in range(100)}) == 100


def test_hex_has_half_as_many_bytes_as_digits(seed: int) -> None:
    value = recipe("hex", 34).make(SeededEntropy(seed)).reveal().decode()
    assert len(value) == 34
    assert len(bytes.fromhex(value)) == 17


def test_rsa_key_is_pkcs8(seed: int) -> None:
    pem = recipe("rsa", 2048).make(SeededEntropy(seed)).reveal()
    key = load_pem_private_key(pem, password=None)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert (key.key_size, key.public_key().public_numbers().e) == (2048, 65_537)
    assert pem.startswith(b"-----BEGIN PRIVATE KEY")


def test_ed25519_key_is_pkcs8(seed: int) -> None:
    pem = recipe("ed25519").make(SeededEntropy(seed)).reveal()
    assert isinstance(load_pem_private_key(pem, password=None), ed25519.Ed25519PrivateKey)


@pytest.mark.parametrize(
    ("kind", "length"), [("password", 32), ("hex", 64), ("rsa", 3072), ("ed25519", 0)]
)
def test_length_has_a_default(kind: str, length: int) -> None:
    assert recipe(kind).length == length


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        ("password", 15),
        ("password", 4097),
        ("password", -1),
        ("hex", 31),
        ("hex", 33),
        ("hex", 4098),
        ("rsa", 1024),
        ("rsa", 8192),
        ("ed25519", 32),
        ("dice", 0),
        ("", 0),
        ("PASSWORD", 0),
    ],
)
def test_what_is_too_weak_or_too_long_is_refused(kind: str, length: int) -> None:
    with pytest.raises(InvalidRequest):
        recipe(kind, length)
