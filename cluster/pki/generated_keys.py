"""Private keys that are secrets of somebody else's: made here, used elsewhere.

The key of RSA is 2048 to 4096 bits with exponent 65537 (FIPS 186-5, A.1.1); Ed25519 is RFC 8032.
Both are PKCS#8 (RFC 5958) in PEM (RFC 7468), unencrypted: the store seals them.
"""

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from cluster.protocol.secret_bytes import SecretBytes

_EXPONENT = 65_537


def rsa_key(bits: int) -> SecretBytes:
    """Return a new RSA private key as PKCS#8 PEM. Takes up to seconds of a processor."""
    return _pem(rsa.generate_private_key(public_exponent=_EXPONENT, key_size=bits))


def ed25519_key() -> SecretBytes:
    """Return a new Ed25519 private key as PKCS#8 PEM."""
    return _pem(ed25519.Ed25519PrivateKey.generate())


def _pem(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> SecretBytes:
    return SecretBytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
