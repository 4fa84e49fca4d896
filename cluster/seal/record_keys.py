"""Record keys: which key seals the next record, and the keys of records that were opened before.

Deriving a key and setting up its cipher is more than half of the work of a small record, so a salt
serves many records of one kind (`aead.Sealer` sees to their nonces), and whoever opens them derives
their key once. Belongs to one keyring and goes with it: of an epoch that was destroyed, nothing
stays. Source: ADR 0004.
"""

from typing import Final

from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal import aead
from cluster.system import Entropy

MAX_OPENERS: Final = 1_024
"""Keys that are remembered for opening, 2.5 KB each; the oldest is forgotten first."""


class RecordKeys:
    """The derived keys of one keyring."""

    def __init__(self) -> None:
        self._sealers: dict[bytes, aead.Sealer] = {}
        self._openers: dict[tuple[int, bytes, bytes], aead.Opener] = {}

    def seal(
        self, key: SecretBytes, info: bytes, plaintext: bytes, associated: bytes, entropy: Entropy
    ) -> bytes:
        """Return what `aead.Sealer` makes; `key` is that of the keyring's current epoch."""
        sealer = self._sealers.get(info)
        if sealer is None or sealer.spent:
            sealer = self._sealers[info] = aead.Sealer(key, info, entropy)
        return sealer.seal(plaintext, associated, entropy)

    def open(
        self, key: SecretBytes, epoch: int, info: bytes, sealed: bytes, associated: bytes
    ) -> bytes:
        """Return the plaintext of salt | nonce | ciphertext | tag, or raise OpenFailed.

        `key` is that of `epoch`.
        """
        salt = sealed[: aead.SALT_SIZE]
        opener = self._openers.get((epoch, info, salt))
        if opener is not None:
            return opener.open(sealed, associated)
        opener = aead.Opener(key, salt, info)
        plaintext = opener.open(sealed, associated)
        # Only what opened is remembered: made-up salts push nothing out.
        if not aead.is_counted(sealed):
            return plaintext
        if len(self._openers) >= MAX_OPENERS:
            del self._openers[next(iter(self._openers))]
        self._openers[epoch, info, salt] = opener
        return plaintext
