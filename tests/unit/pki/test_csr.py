"""Requests are believed for their key alone; a return is believed for the old key's signature."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from cluster.pki import csr
from cluster.protocol.errors import InvalidRequest, PayloadTooLarge, PermissionDenied


def test_request_proves_its_key() -> None:
    key = csr.new_key()
    assert csr.check_csr(csr.make_csr(key)) == key.public_key()


def test_key_survives_pem() -> None:
    key = csr.new_key()
    assert csr.key_from_pem(csr.key_to_pem(key)).public_key() == key.public_key()


def test_request_with_a_broken_signature_is_refused() -> None:
    der = bytearray(csr.make_csr(csr.new_key()))
    der[-1] ^= 1
    with pytest.raises(InvalidRequest):
        csr.check_csr(bytes(der))


def test_request_for_anothers_key_is_refused() -> None:
    """The bytes of another's public key under one's own signature prove nothing."""
    own, other = csr.new_key(), csr.new_key()
    mine, theirs = (
        one.public_key().public_numbers().x.to_bytes(32)
        + one.public_key().public_numbers().y.to_bytes(32)
        for one in (own, other)
    )
    der = csr.make_csr(own)
    assert der.count(mine) == 1
    with pytest.raises(InvalidRequest):
        csr.check_csr(der.replace(mine, theirs))


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)],
    ids=["P-384", "RSA"],
)
def test_other_kinds_of_key_are_refused(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
) -> None:
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, hashes.SHA256())
    with pytest.raises(InvalidRequest):
        csr.check_csr(request.public_bytes(Encoding.DER))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(InvalidRequest):
        csr.key_from_pem(pem)


def test_large_request_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(PayloadTooLarge):
        csr.check_csr(bytes(csr.CSR_LIMIT + 1))


@pytest.mark.parametrize("der", [b"", b"\x30", b"\x30\x03\x02\x01\x00", b"-----BEGIN"])
def test_what_is_no_request_is_refused(der: bytes) -> None:
    with pytest.raises(InvalidRequest):
        csr.check_csr(der)


def test_error_on_a_broken_key_does_not_quote_it() -> None:
    pem = csr.key_to_pem(csr.new_key()).replace(b"MIG", b"XXX")
    with pytest.raises(InvalidRequest) as caught:
        csr.key_from_pem(pem)
    assert caught.value.__cause__ is None
    assert pem.decode().splitlines()[1] not in str(caught.value)


def test_public_key_digest_is_stable_over_requests() -> None:
    key = csr.new_key()
    digests = {csr.public_key_digest(csr.check_csr(csr.make_csr(key))) for _ in range(3)}
    assert digests == {csr.public_key_digest(key.public_key())}
    assert digests != {csr.public_key_digest(csr.new_key().public_key())}


def test_old_key_vouches_for_one_request_only() -> None:
    old, new = csr.new_key(), csr.new_key()
    request = csr.make_csr(new)
    signature = csr.sign_return_request(old, request)
    csr.verify_return_request(old.public_key(), request, signature)
    with pytest.raises(PermissionDenied):
        csr.verify_return_request(old.public_key(), csr.make_csr(new), signature)
    with pytest.raises(PermissionDenied):
        csr.verify_return_request(new.public_key(), request, signature)
    with pytest.raises(PermissionDenied):
        csr.verify_return_request(old.public_key(), request, b"")


def test_bare_signature_over_the_request_does_not_vouch() -> None:
    """What the old key signed for another purpose must not bring a thief's request in."""
    old = csr.new_key()
    request = csr.make_csr(csr.new_key())
    bare = old.sign(request, ec.ECDSA(hashes.SHA256()))
    old.public_key().verify(bare, request, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(PermissionDenied):
        csr.verify_return_request(old.public_key(), request, bare)
