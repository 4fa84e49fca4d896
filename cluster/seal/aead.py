"""The cryptographic primitives: AES-256-GCM, HKDF-SHA256, HMAC-SHA256 and HPKE.

Owns every call of them outside `cluster.pki`, with its sizes, its associated data and the reason
why a nonce cannot repeat. Knows no record, file or key hierarchy. Sources: NIST
SP 800-38D, RFC 5869, RFC 2104, RFC 9180 (base mode; DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
AES-256-GCM).
"""

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cluster.protocol.errors import InvalidRequest, InvariantViolation, OpenFailed
from cluster.protocol.secret_bytes import SecretBytes
from cluster.system import Entropy

KEY_SIZE = 32
NONCE_SIZE = 12
TAG_SIZE = 16
SALT_SIZE = 32
_HEAD = SALT_SIZE + NONCE_SIZE
SALTED_OVERHEAD = SALT_SIZE + NONCE_SIZE + TAG_SIZE
"""Bytes that `seal_salted` adds to a plaintext."""
SEALS_PER_SALT = 1_024
"""How often a `Sealer` seals: far below what AES-256-GCM allows under one key."""
_COUNT_SIZE = 4

DIGEST_SIZE = 32
HPKE_PUBLIC_KEY_SIZE = 32
_SHA256 = SHA256()
HPKE_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


@dataclass(frozen=True, slots=True)
class HpkeKeyPair:
    """An X25519 key pair, both halves in the 32 raw bytes of RFC 7748."""

    private_key: SecretBytes
    public_key: bytes


def frame(*parts: bytes) -> bytes:
    """Return the parts, each behind its length (u32, big endian): no two lists frame alike."""
    return b"".join(len(part).to_bytes(4) + part for part in parts)


def derive(key: SecretBytes, salt: bytes, info: bytes, size: int = KEY_SIZE) -> SecretBytes:
    """Return `size` bytes of HKDF-SHA256 (RFC 5869) over a key of full entropy."""
    kdf = HKDF(algorithm=_SHA256, length=size, salt=salt, info=info)
    return SecretBytes(kdf.derive(key.reveal()))


def blind(index_key: SecretBytes, label: bytes) -> bytes:
    """Return HMAC-SHA256 of a label, 32 bytes: without the key nobody can tell of which."""
    return Blinder(index_key).blind(label)


class Blinder:
    """`blind` with a key that was taken in once: half the work where many labels follow."""

    __slots__ = ("_keyed",)

    def __init__(self, index_key: SecretBytes) -> None:
        self._keyed = HMAC(index_key.reveal(), _SHA256)

    def blind(self, label: bytes) -> bytes:
        """Return HMAC-SHA256 of a label, 32 bytes."""
        mac = self._keyed.copy()
        mac.update(label)
        return mac.finalize()


def digest(content: bytes) -> bytes:
    """Return SHA-256, 32 bytes: it tells accidents; anybody can forge it."""
    return hashlib.sha256(content).digest()


def seal(key: SecretBytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Return AES-256-GCM ciphertext and tag (16 bytes).

    `nonce`: 12 bytes, never twice under one key; `seal_salted` sees to that and is what to call.
    """
    return _cipher(key, nonce).encrypt(nonce, plaintext, associated)


def open_(key: SecretBytes, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
    """Return the plaintext of `seal`, or raise OpenFailed, whatever the reason."""
    try:
        return _cipher(key, nonce).decrypt(nonce, ciphertext, associated)
    except InvalidTag:
        raise OpenFailed from None


def seal_salted(
    key: SecretBytes, info: bytes, plaintext: bytes, associated: bytes, entropy: Entropy
) -> bytes:
    """Return salt (32) | nonce (12) | ciphertext | tag (16), under a key used for this one call.

    The key is HKDF(key, salt, info) with a fresh salt, so a nonce repeats under one key only if 32
    random bytes do.
    """
    return Sealer(key, info, entropy).seal(plaintext, associated, entropy)


def open_salted(key: SecretBytes, info: bytes, sealed: bytes, associated: bytes) -> bytes:
    """Return the plaintext of `seal_salted` or of a `Sealer`, or raise OpenFailed."""
    return Opener(key, sealed[:SALT_SIZE], info).open(sealed, associated)


def is_counted(sealed: bytes) -> bool:
    """Return whether a `Sealer`'s count may begin the nonce: version 0.1.0 drew a salt for each
    record, and its key is needed once."""
    return int.from_bytes(sealed[SALT_SIZE : SALT_SIZE + _COUNT_SIZE]) < SEALS_PER_SALT


class Sealer:
    """Seals as `seal_salted` does, `SEALS_PER_SALT` times under one salt that it draws itself.

    Its nonces begin with a count, so that none repeats under its key; nobody else has that key
    unless 32 random bytes repeat. The random rest is for a machine that was copied as it ran.
    """

    __slots__ = ("_cipher", "_count", "_salt")

    def __init__(self, key: SecretBytes, info: bytes, entropy: Entropy) -> None:
        self._salt = entropy.token(SALT_SIZE)
        self._cipher = AESGCM(derive(key, self._salt, info).reveal())
        self._count = 0

    @property
    def spent(self) -> bool:
        """Whether it has sealed all that it may."""
        return self._count >= SEALS_PER_SALT

    def seal(self, plaintext: bytes, associated: bytes, entropy: Entropy) -> bytes:
        """Return salt | nonce | ciphertext | tag."""
        if self._count >= SEALS_PER_SALT:
            raise InvariantViolation("this salt has sealed all that it may")
        nonce = self._count.to_bytes(_COUNT_SIZE) + entropy.token(NONCE_SIZE - _COUNT_SIZE)
        self._count += 1
        return self._salt + nonce + self._cipher.encrypt(nonce, plaintext, associated)


class Opener:
    """Opens what was sealed under one salt."""

    __slots__ = ("_cipher",)

    def __init__(self, key: SecretBytes, salt: bytes, info: bytes) -> None:
        self._cipher = AESGCM(derive(key, salt, info).reveal())

    def open(self, sealed: bytes, associated: bytes) -> bytes:
        """Return the plaintext of salt | nonce | ciphertext | tag, or raise OpenFailed.

        The salt is the caller's to look at: it says which opener.
        """
        if len(sealed) < SALTED_OVERHEAD:
            raise OpenFailed
        try:
            return self._cipher.decrypt(sealed[SALT_SIZE:_HEAD], sealed[_HEAD:], associated)
        except InvalidTag:
            raise OpenFailed from None


def hpke_keypair() -> HpkeKeyPair:
    """Return a fresh key pair to receive one HPKE message with."""
    private_key = X25519PrivateKey.generate()
    return HpkeKeyPair(
        private_key=SecretBytes(private_key.private_bytes_raw()),
        public_key=private_key.public_key().public_bytes_raw(),
    )


def hpke_seal(public_key: bytes, purpose: str, context: bytes, plaintext: SecretBytes) -> bytes:
    """Return enc (32) | ciphertext | tag (16) for the holder of `public_key` (32 raw bytes).

    HPKE draws an ephemeral key for each call, so its key and nonce serve once. `purpose` and
    `context` (who asks, in which exchange) are bound: opening needs the same two. The sender is not
    authenticated: the channel must do that. Raises InvalidRequest for a public key that is none.
    """
    try:
        recipient = X25519PublicKey.from_public_bytes(public_key)
        return HPKE_SUITE.encrypt(plaintext.reveal(), recipient, _hpke_info(purpose, context))
    except ValueError:
        # A wrong length, or a point of low order, whose shared secret anybody can compute.
        raise InvalidRequest("the HPKE public key is not valid; make a fresh key pair") from None


def hpke_open(private_key: SecretBytes, purpose: str, context: bytes, sealed: bytes) -> SecretBytes:
    """Return the plaintext of `hpke_seal`, or raise OpenFailed."""
    recipient = X25519PrivateKey.from_private_bytes(private_key.reveal())
    try:
        return SecretBytes(HPKE_SUITE.decrypt(sealed, recipient, _hpke_info(purpose, context)))
    except (InvalidTag, ValueError):
        raise OpenFailed from None


def _hpke_info(purpose: str, context: bytes) -> bytes:
    return frame(b"strongroom hpke 1", purpose.encode(), context)


def _cipher(key: SecretBytes, nonce: bytes) -> AESGCM:
    if len(key) != KEY_SIZE or len(nonce) != NONCE_SIZE:
        raise InvariantViolation("AES-256-GCM takes a key of 32 bytes and a nonce of 12")
    return AESGCM(key.reveal())
