"""The record envelope: what a stored value looks like.

Owns the format of a sealed record and what is bound to it. Knows neither the records' content nor
the store: the caller compares the id inside a record with the id it asked for, and the generation
with the one it saw last. Source: ADR 0004.

    format u8 = 1 | epoch u32 | generation u64 | salt 32 | nonce 12 | ciphertext | tag 16
    integers     big endian
    key          HKDF-SHA256(epoch key, salt, "strongroom record 1|" kind)
    associated   format, kind, engine key, epoch, generation, each behind its length

The key hangs on a random salt, never on id and generation: two managers may seal the same pair, and
a transaction that lost its compare still lies in the engine's log. A salt serves many records of
one kind (`record_keys`); the nonce tells them apart.
"""

import struct
from functools import cache
from typing import NamedTuple

import msgspec

from cluster.protocol.errors import InvariantViolation, OpenFailed
from cluster.seal import aead, padding
from cluster.seal.keyring import Keyring
from cluster.system import Entropy

FORMAT = 1
MAX_GENERATION = 2**64 - 1

_HEADER = struct.Struct(">BIQ")
_FRAMED_STATE = struct.Struct(">IIIQ")
"""Epoch and generation, each behind its length, as `aead.frame` puts it."""


class Header(NamedTuple):
    """What a sealed record shows without a key: unproven until the record is opened."""

    format: int
    epoch: int
    generation: int


class Opened(msgspec.Struct, frozen=True):
    """An authentic record."""

    generation: int
    epoch: int
    plaintext: bytes

    def __repr__(self) -> str:
        return f"Opened(generation={self.generation}, epoch={self.epoch})"


def seal_record(
    keyring: Keyring,
    *,
    kind: str,
    engine_key: bytes,
    generation: int,
    plaintext: bytes,
    entropy: Entropy,
) -> bytes:
    """Return `plaintext`, padded and sealed under the keyring's current epoch.

    It opens only under the same kind, engine key, epoch and generation.
    """
    if not 0 <= generation <= MAX_GENERATION:
        raise InvariantViolation("a record's generation takes 64 bits")
    epoch = keyring.current
    info, framed_kind = _info(kind)
    return _HEADER.pack(FORMAT, epoch, generation) + keyring.record_keys.seal(
        keyring.epoch_key(epoch),
        info,
        padding.pad(plaintext),
        _bound(framed_kind, engine_key, epoch, generation),
        entropy,
    )


def sealed_size(size: int) -> int:
    """Return how many bytes a plaintext of `size` bytes has once it is sealed."""
    return _HEADER.size + aead.SALTED_OVERHEAD + padding.padded_size(size)


def open_record(keyring: Keyring, *, kind: str, engine_key: bytes, sealed: bytes) -> Opened:
    """Return the record stored under `engine_key`, or raise OpenFailed, whatever the reason."""
    _, epoch, generation = peek(sealed)
    info, framed_kind = _info(kind)
    padded = keyring.record_keys.open(
        keyring.epoch_key(epoch),
        epoch,
        info,
        sealed[_HEADER.size :],
        _bound(framed_kind, engine_key, epoch, generation),
    )
    return Opened(generation, epoch, padding.unpad(padded))


def peek(sealed: bytes) -> Header:
    """Return the header of a record without opening it, or raise OpenFailed."""
    if len(sealed) < _HEADER.size:
        raise OpenFailed
    header = Header(*_HEADER.unpack_from(sealed))
    if header.format != FORMAT:
        raise OpenFailed
    return header


@cache
def _info(kind: str) -> tuple[bytes, bytes]:
    """Return what the key is derived for, and the framed start of what is bound."""
    return b"strongroom record 1|" + kind.encode(), aead.frame(FORMAT.to_bytes(1), kind.encode())


def _bound(framed_kind: bytes, engine_key: bytes, epoch: int, generation: int) -> bytes:
    # The engine key is an HMAC of kind and id, so binding it binds the id. These are the bytes of
    # `aead.frame` over all five, put together with less work.
    size = len(engine_key).to_bytes(4)
    state = _FRAMED_STATE.pack(4, epoch, 8, generation)
    return b"".join((framed_kind, size, engine_key, state))
