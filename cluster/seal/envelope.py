"""The record envelope: what a stored value looks like.

Owns the format of a sealed record and what is bound to it. Knows neither the records' content nor
the store: the caller compares the id inside a record with the id it asked for, and the generation
with the one it saw last. Source: ADR 0004.

    format u8 = 1 | epoch u32 | generation u64 | salt 32 | nonce 12 | ciphertext | tag 16
    integers     big endian
    key          HKDF-SHA256(epoch key, salt, "strongroom record 1|" kind)
    associated   format, kind, engine key, epoch, generation, each behind its length

The key hangs on a random salt, never on id and generation: two managers may seal the same pair, and
a transaction that lost its compare still lies in the engine's log.
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
    header = Header(FORMAT, keyring.current, generation)
    return _pack(header) + aead.seal_salted(
        keyring.epoch_key(header.epoch),
        _info(kind),
        padding.pad(plaintext),
        _associated(header, kind, engine_key),
        entropy,
    )


def open_record(keyring: Keyring, *, kind: str, engine_key: bytes, sealed: bytes) -> Opened:
    """Return the record stored under `engine_key`, or raise OpenFailed, whatever the reason."""
    header = peek(sealed)
    padded = aead.open_salted(
        keyring.epoch_key(header.epoch),
        _info(kind),
        sealed[_HEADER.size :],
        _associated(header, kind, engine_key),
    )
    return Opened(header.generation, header.epoch, padding.unpad(padded))


def peek(sealed: bytes) -> Header:
    """Return the header of a record without opening it, or raise OpenFailed."""
    if len(sealed) < _HEADER.size:
        raise OpenFailed
    header = Header(*_HEADER.unpack_from(sealed))
    if header.format != FORMAT:
        raise OpenFailed
    return header


def _pack(header: Header) -> bytes:
    return _HEADER.pack(header.format, header.epoch, header.generation)


@cache
def _info(kind: str) -> bytes:
    return b"strongroom record 1|" + kind.encode()


@cache
def _framed_kind(kind: str) -> bytes:
    return aead.frame(FORMAT.to_bytes(1), kind.encode())


def _associated(header: Header, kind: str, engine_key: bytes) -> bytes:
    # The engine key is an HMAC of kind and id, so binding it binds the id.
    # The same bytes as `aead.frame` of all five, put together with less work.
    size = len(engine_key).to_bytes(4)
    state = _FRAMED_STATE.pack(4, header.epoch, 8, header.generation)
    return b"".join((_framed_kind(kind), size, engine_key, state))
