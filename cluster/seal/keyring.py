"""The keyring: the index key that blinds names, and one record key per key epoch.

Pure: takes its randomness and returns new keyrings, stores nothing. Every engine key is made here,
so a name can reach the engine only through HMAC. `store` keeps the wrapped keyring and decides when
epochs change. Source: docs/explanation/keys.md.

    engine key   HMAC("kind|" kind)[:16] | HMAC("id|" kind "|" id)      48 bytes
    stream key   HMAC("stream|" stream)[:16] | sequence u64             24 bytes, sort by sequence
    wrapped      format u8 = 1 | salt 32 | nonce 12 | ciphertext | tag 16
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import msgspec

from cluster.protocol.errors import Conflict, InvariantViolation, NotFound, OpenFailed
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.undecodable import UNDECODABLE
from cluster.seal import aead, padding
from cluster.seal.record_keys import RecordKeys
from cluster.system import Entropy

PREFIX_SIZE = 16
ENGINE_KEY_SIZE = PREFIX_SIZE + 32
STREAM_KEY_SIZE = PREFIX_SIZE + 8
MAX_EPOCH = 2**32 - 1
MAX_SEQUENCE = 2**64 - 1

_WRAP_FORMAT = b"\x01"
_WRAP_LABEL = b"strongroom keyring 1"


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a wrapped keyring holds, as msgpack."""

    index_key: bytes
    epochs: dict[int, bytes]
    current: int

    def __repr__(self) -> str:
        return "_Content(<redacted>)"


@dataclass(frozen=True, slots=True, repr=False)
class Keyring:
    """All keys that records are sealed and named with.

    New records take the `current` epoch, which is always the highest.
    """

    index_key: SecretBytes
    epochs: Mapping[int, SecretBytes]
    current: int
    _kinds: dict[str, tuple[bytes, bytes]] = field(default_factory=dict, init=False, compare=False)
    """Prefix and beginning of the label, by kind: one of some twenty is asked for with every
    record."""
    _blinder: aead.Blinder = field(init=False, compare=False)
    record_keys: RecordKeys = field(default_factory=RecordKeys, init=False, compare=False)
    """Derived from the keys of the epochs."""

    def __post_init__(self) -> None:
        # The current epoch is the highest and stays, so a destroyed epoch's number never returns.
        if not self.epochs or self.current != max(self.epochs) or min(self.epochs) < 1:
            raise InvariantViolation(
                "the current key epoch is the highest one, and epochs count from 1"
            )
        if self.current > MAX_EPOCH:
            raise InvariantViolation("key epochs are spent")
        if any(len(key) != aead.KEY_SIZE for key in (self.index_key, *self.epochs.values())):
            raise InvariantViolation("the keys of a keyring have 32 bytes")
        object.__setattr__(self, "epochs", MappingProxyType(dict(self.epochs)))
        object.__setattr__(self, "_blinder", aead.Blinder(self.index_key))

    def __repr__(self) -> str:
        return "Keyring(<redacted>)"

    def epoch_key(self, epoch: int) -> SecretBytes:
        """Return the record key of an epoch, or raise OpenFailed: the epoch may be destroyed."""
        try:
            return self.epochs[epoch]
        except KeyError:
            raise OpenFailed from None

    def with_new_epoch(self, entropy: Entropy) -> "Keyring":
        """Return a keyring whose current epoch is a fresh one."""
        epoch = self.current + 1
        key = SecretBytes(entropy.token(aead.KEY_SIZE))
        return replace(self, epochs={**self.epochs, epoch: key}, current=epoch)

    def without_epoch(self, epoch: int) -> "Keyring":
        """Return a keyring that can no longer open the records of `epoch`.

        The caller has resealed what is still needed. Raises Conflict for the current epoch,
        NotFound for an unknown one.
        """
        if epoch == self.current:
            raise Conflict("the current key epoch is in use; run `strongroom key rotate` first")
        if epoch not in self.epochs:
            raise NotFound("there is no such key epoch; see `strongroom status`")
        return replace(self, epochs={n: key for n, key in self.epochs.items() if n != epoch})

    def kind_prefix(self, kind: str) -> bytes:
        """Return the 16 bytes that every engine key of a kind starts with."""
        return self._kind(kind)[0]

    def engine_key(self, kind: str, record_id: str) -> bytes:
        """Return the key a record is stored under, 48 bytes."""
        prefix, label = self._kinds.get(kind) or self._kind(kind)
        return prefix + self._blinder.blind(label + record_id.encode())

    def stream_prefix(self, stream: str) -> bytes:
        """Return the 16 bytes that every key of an append stream starts with."""
        return self._blind(f"stream|{stream}")[:PREFIX_SIZE]

    def stream_key(self, stream: str, sequence: int) -> bytes:
        """Return the key of a stream's entry, 24 bytes; keys sort as sequences do."""
        if not 0 <= sequence <= MAX_SEQUENCE:
            raise InvariantViolation("a stream's sequence takes 64 bits")
        return self.stream_prefix(stream) + sequence.to_bytes(8)

    def wrap(self, root_key: SecretBytes, entropy: Entropy) -> bytes:
        """Return the keyring sealed under the root key (32 bytes)."""
        content = _Content(
            index_key=self.index_key.reveal(),
            epochs={epoch: key.reveal() for epoch, key in self.epochs.items()},
            current=self.current,
        )
        padded = padding.pad(msgspec.msgpack.encode(content))
        return _WRAP_FORMAT + aead.seal_salted(
            _root(root_key), _WRAP_LABEL, padded, _WRAP_FORMAT + _WRAP_LABEL, entropy
        )

    @classmethod
    def unwrap(cls, root_key: SecretBytes, blob: bytes) -> "Keyring":
        """Return the keyring that `wrap` sealed, or raise OpenFailed."""
        if blob[:1] != _WRAP_FORMAT:
            raise OpenFailed
        padded = aead.open_salted(
            _root(root_key), _WRAP_LABEL, blob[1:], _WRAP_FORMAT + _WRAP_LABEL
        )
        try:
            content = msgspec.msgpack.decode(padding.unpad(padded), type=_Content)
        except UNDECODABLE:
            raise OpenFailed from None
        epochs = {epoch: SecretBytes(key) for epoch, key in content.epochs.items()}
        return cls(SecretBytes(content.index_key), epochs, content.current)

    def _kind(self, kind: str) -> tuple[bytes, bytes]:
        known = self._kinds.get(kind)
        if known is None:
            prefix = self._blind(f"kind|{_checked(kind)}")[:PREFIX_SIZE]
            known = self._kinds[kind] = prefix, f"id|{kind}|".encode()
        return known

    def _blind(self, label: str) -> bytes:
        return self._blinder.blind(label.encode())


def new_keyring(entropy: Entropy) -> Keyring:
    """Return a keyring of fresh keys with one epoch, 1."""
    index_key = SecretBytes(entropy.token(aead.KEY_SIZE))
    return Keyring(index_key, {1: SecretBytes(entropy.token(aead.KEY_SIZE))}, current=1)


def _checked(kind: str) -> str:
    # The separator inside a kind would let two pairs of kind and id meet in one label.
    if not kind or "|" in kind:
        raise InvariantViolation("a record kind is a word without '|'")
    return kind


def _root(root_key: SecretBytes) -> SecretBytes:
    if len(root_key) != aead.KEY_SIZE:
        raise InvariantViolation("the root key has 32 bytes")
    return root_key
