"""The unlock key and the seal file: what a manager needs before it can read anything else.

Owns the key's text form and the file's format. Does not ask for the key, and stores it nowhere. The
unlock key wraps a seal key, which stays in the memory of an unlocked manager, so that a renewed TLS
key is written without asking for the unlock key again. The unlock key is 32 random bytes, so HKDF
suffices: slow password hashing would add nothing. Source: ADR 0005.

    file   magic "SRSEAL" | format u16 = 1 | slot | body | SHA-256 of all before
    slot   salt 32 | nonce 12 | seal key 32 | tag 16, under the unlock key
    body   salt 32 | nonce 12 | padded msgpack | tag 16, under the seal key, bound to all before it
    text   SRUNLK-1- and 8 groups of 7 base32 characters: the key and 3 bytes of its digest

The digest at the end is for accidents: a damaged file is told from a wrong key. Whoever forges it
meets the two tags.
"""

import base64
import binascii
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from cluster.protocol.errors import (
    IntegrityError,
    InvalidRequest,
    InvariantViolation,
    OpenFailed,
    PermissionDenied,
)
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.undecodable import UNDECODABLE
from cluster.seal import aead, durable_file, padding
from cluster.system import Entropy

SIZE_LIMIT = 1_048_576
"""Bytes a seal file may have."""

_MAGIC = b"SRSEAL"
_HEADER = _MAGIC + (1).to_bytes(2)
_SLOT_SIZE = aead.KEY_SIZE + aead.SALTED_OVERHEAD
_SMALLEST = len(_HEADER) + _SLOT_SIZE + aead.SALTED_OVERHEAD + aead.DIGEST_SIZE
_SLOT_INFO = b"strongroom seal file slot 1"
_BODY_INFO = b"strongroom seal file body 1"
_VERIFIER_INFO = b"strongroom unlock verifier 1"

_TEXT_PREFIX = b"SRUNLK-1-"
_CHECK_SIZE = 3
_GROUP_SIZE = 7
_TEXT_SIZE = 56
"""Base32 characters of key and check bytes; no padding is left over."""


@dataclass(frozen=True, slots=True)
class UnlockKey:
    """The key that a person keeps: it opens the seal file of every manager."""

    key: SecretBytes

    def __post_init__(self) -> None:
        if len(self.key) != aead.KEY_SIZE:
            raise InvariantViolation("an unlock key has 32 bytes")

    @classmethod
    def generate(cls, entropy: Entropy) -> "UnlockKey":
        """Return a fresh key."""
        return cls(SecretBytes(entropy.token(aead.KEY_SIZE)))

    @classmethod
    def parse(cls, text: SecretBytes) -> "UnlockKey":
        """Return the key that `text` writes; case, outer white space and grouping do not matter.

        Raises InvalidRequest for what is no key and for a typing error, before any file is tried.
        """
        letters = text.reveal().strip().upper()
        if not letters.startswith(_TEXT_PREFIX):
            raise InvalidRequest(
                "this is not an unlock key; copy it whole, it starts with SRUNLK-1-"
            )
        content = _decoded(letters.removeprefix(_TEXT_PREFIX).replace(b"-", b""))
        key, check = content[: aead.KEY_SIZE], content[aead.KEY_SIZE :]
        if len(content) != aead.KEY_SIZE + _CHECK_SIZE or check != _check_bytes(key):
            raise InvalidRequest("the unlock key has a typing error; compare it with your copy")
        return cls(SecretBytes(key))

    def text(self) -> SecretBytes:
        """Return the form to show once and to keep, in ASCII."""
        key = self.key.reveal()
        letters = base64.b32encode(key + _check_bytes(key))
        groups = [letters[at : at + _GROUP_SIZE] for at in range(0, _TEXT_SIZE, _GROUP_SIZE)]
        return SecretBytes(_TEXT_PREFIX + b"-".join(groups))


@dataclass(frozen=True, slots=True)
class SealFileContents:
    """What a manager keeps for itself. The root key is empty while a join is pending."""

    root_key: SecretBytes
    engine_ca_certificate: bytes
    engine_ca_key: SecretBytes
    tls_certificate_chain: bytes
    tls_key: SecretBytes
    manager_id: str
    trust_domain: str
    cluster_id: str
    pending: SecretBytes = field(default_factory=lambda: SecretBytes(b""))
    """State of an unfinished join, in the joiner's own form; it may hold a private key."""


@dataclass(frozen=True, slots=True)
class SealKey:
    """What rewrites the file without the unlock key: the seal key and the slot that wraps it."""

    key: SecretBytes
    slot: bytes = field(repr=False)


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents as msgpack."""

    root_key: bytes
    engine_ca_certificate: bytes
    engine_ca_key: bytes
    tls_certificate_chain: bytes
    tls_key: bytes
    manager_id: str
    trust_domain: str
    cluster_id: str
    pending: bytes

    def __repr__(self) -> str:
        return "_Body(<redacted>)"


def unlock_verifier(unlock_key: UnlockKey) -> bytes:
    """Return 32 bytes to store: they tell whether a key is the cluster's, and nothing of it."""
    return aead.derive(unlock_key.key, b"", _VERIFIER_INFO).reveal()


def matches_verifier(unlock_key: UnlockKey, verifier: bytes) -> bool:
    """Return whether `verifier` was made from this key."""
    return SecretBytes(unlock_verifier(unlock_key)) == SecretBytes(verifier)


def create_seal_file(
    path: Path, unlock_key: UnlockKey, contents: SealFileContents, entropy: Entropy
) -> SealKey:
    """Write a new seal file under a fresh seal key. Raises AlreadyExists, OSError."""
    key = SecretBytes(entropy.token(aead.KEY_SIZE))
    slot = aead.seal_salted(unlock_key.key, _SLOT_INFO, key.reveal(), _HEADER, entropy)
    seal_key = SealKey(key, slot)
    durable_file.create(path, _pack(seal_key, contents, entropy))
    return seal_key


def rewrite_seal_file(
    path: Path, seal_key: SealKey, contents: SealFileContents, entropy: Entropy
) -> None:
    """Replace the file at once and durably; the unlock key stays the same. Raises OSError."""
    durable_file.replace(path, _pack(seal_key, contents, entropy))


def open_seal_file(path: Path, unlock_key: UnlockKey) -> tuple[SealFileContents, SealKey]:
    """Return what the file holds and the key to rewrite it with.

    Raises PermissionDenied for another cluster's key, IntegrityError for a damaged file or one of a
    later version, NotFound.
    """
    content = _undamaged_part(durable_file.read(path, SIZE_LIMIT))
    slot_end = len(_HEADER) + _SLOT_SIZE
    slot = content[len(_HEADER) : slot_end]
    try:
        key = SecretBytes(aead.open_salted(unlock_key.key, _SLOT_INFO, slot, _HEADER))
    except OpenFailed:
        raise PermissionDenied(
            "the unlock key does not open this seal file; use the key of this cluster"
        ) from None
    try:
        padded = aead.open_salted(key, _BODY_INFO, content[slot_end:], _HEADER + slot)
        body = msgspec.msgpack.decode(padding.unpad(padded), type=_Body)
    except (OpenFailed, *UNDECODABLE):
        raise _damaged() from None
    return _contents(body), SealKey(key, slot)


def _pack(seal_key: SealKey, contents: SealFileContents, entropy: Entropy) -> bytes:
    padded = padding.pad(msgspec.msgpack.encode(_body(contents)))
    bound = _HEADER + seal_key.slot
    content = bound + aead.seal_salted(seal_key.key, _BODY_INFO, padded, bound, entropy)
    if len(content) + aead.DIGEST_SIZE > SIZE_LIMIT:
        # Written, it could never be read again.
        raise InvariantViolation("the contents of the seal file are too large")
    return content + aead.digest(content)


def _undamaged_part(file: bytes) -> bytes:
    """Return the file less its digest, once format and digest are right."""
    if file.startswith(_MAGIC) and not file.startswith(_HEADER):
        raise IntegrityError(
            "this version cannot read the format of the seal file; run the version that wrote it"
        )
    content, digest = file[: -aead.DIGEST_SIZE], file[-aead.DIGEST_SIZE :]
    if len(file) < _SMALLEST or not file.startswith(_HEADER) or aead.digest(content) != digest:
        raise _damaged()
    return content


def _damaged() -> IntegrityError:
    return IntegrityError(
        "the seal file is damaged; put back a copy, or remove this manager and join it again"
    )


def _body(contents: SealFileContents) -> _Body:
    return _Body(
        root_key=contents.root_key.reveal(),
        engine_ca_certificate=contents.engine_ca_certificate,
        engine_ca_key=contents.engine_ca_key.reveal(),
        tls_certificate_chain=contents.tls_certificate_chain,
        tls_key=contents.tls_key.reveal(),
        manager_id=contents.manager_id,
        trust_domain=contents.trust_domain,
        cluster_id=contents.cluster_id,
        pending=contents.pending.reveal(),
    )


def _contents(body: _Body) -> SealFileContents:
    return SealFileContents(
        root_key=SecretBytes(body.root_key),
        engine_ca_certificate=body.engine_ca_certificate,
        engine_ca_key=SecretBytes(body.engine_ca_key),
        tls_certificate_chain=body.tls_certificate_chain,
        tls_key=SecretBytes(body.tls_key),
        manager_id=body.manager_id,
        trust_domain=body.trust_domain,
        cluster_id=body.cluster_id,
        pending=SecretBytes(body.pending),
    )


def _check_bytes(key: bytes) -> bytes:
    return aead.digest(b"strongroom unlock key 1" + key)[:_CHECK_SIZE]


def _decoded(letters: bytes) -> bytes:
    try:
        return base64.b32decode(letters)
    except binascii.Error:
        return b""
