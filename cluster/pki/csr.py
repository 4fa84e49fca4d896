"""Leaf keys and certificate requests: what a requester proves, and how little of it is trusted.

Owns key encoding, the check of a PKCS #10 request and the proof by which an expired node comes
back. A request's names, extensions and attributes are ignored: only its public key is taken, the
issuer decides everything else. Source: RFC 2986, DESIGN 5.
"""

import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cluster.pki.unreadable import UNREADABLE
from cluster.protocol.errors import InvalidRequest, PayloadTooLarge, PermissionDenied

CSR_LIMIT = 4096
"""Bytes: a request of ours takes about 250; anything large is refused before it is parsed."""

_RETURN_DOMAIN = b"strongroom node return request v1\x00"


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a fresh P-256 key; `cryptography` draws it from the system's source itself."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the key as unencrypted PKCS #8 PEM; the caller owns where it rests."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def key_from_pem(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Return the P-256 key in `pem`, or raise InvalidRequest, whose text never quotes the input."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except UNREADABLE:
        raise InvalidRequest("the private key cannot be read; it takes P-256 in PKCS #8") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not is_p256(key.public_key()):
        raise InvalidRequest("the private key is not P-256")
    return key


def is_p256(public_key: object) -> bool:
    """Return whether `public_key` is on the one curve this cluster uses."""
    return isinstance(public_key, ec.EllipticCurvePublicKey) and isinstance(
        public_key.curve, ec.SECP256R1
    )


def make_csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a DER request that proves possession of `key` and asks for nothing."""
    builder = x509.CertificateSigningRequestBuilder(subject_name=x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def check_csr(der: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key whose possession `der` proves.

    Raises PayloadTooLarge over `CSR_LIMIT` and InvalidRequest for anything but a well-signed P-256
    request.
    """
    if len(der) > CSR_LIMIT:
        raise PayloadTooLarge(f"a certificate request takes at most {CSR_LIMIT} bytes")
    try:
        request = x509.load_der_x509_csr(der)
        public_key = request.public_key()
        proven = is_p256(public_key) and request.is_signature_valid
    except UNREADABLE:
        raise InvalidRequest("the certificate request cannot be read; send PKCS #10 DER") from None
    if not proven or not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise InvalidRequest("a certificate request takes a P-256 key and its own signature")
    return public_key


def public_key_digest(public_key: ec.EllipticCurvePublicKey) -> str:
    """Return the hex SHA-256 of SubjectPublicKeyInfo: what a record remembers a key by."""
    spki = public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()


def sign_return_request(old_key: ec.EllipticCurvePrivateKey, csr_der: bytes) -> bytes:
    """Return the old key's signature over the new request, for an expired node's return."""
    return old_key.sign(_RETURN_DOMAIN + csr_der, ec.ECDSA(hashes.SHA256()))


def verify_return_request(
    old_public_key: ec.EllipticCurvePublicKey, csr_der: bytes, signature: bytes
) -> None:
    """Raise PermissionDenied unless `signature` is the old key's over exactly this request.

    The domain prefix keeps a signature made for TLS or for a request itself from passing here.
    """
    try:
        old_public_key.verify(signature, _RETURN_DOMAIN + csr_der, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise PermissionDenied from None
