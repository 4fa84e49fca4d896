"""The envelope that values travel in: a manager seals to a key of the node, the mount opens.

A Values message has a message key, drawn fresh, under which its values are sealed by AES-256-GCM;
the message key is sealed by HPKE to the public key that the agent named in its Hello. So neither
the WebSocket, nor a queue, nor what the agent has staged holds a value in clear. Bound in, and
needed again to open: the node, the session, and for each value its secret and version; a message
that is recorded is worth nothing to another node, in another session, or in another slot.

The key pairs are made when the agent starts and live in its memory alone, so what was recorded
cannot be opened once the process is gone. HPKE (base mode) does not say who sealed: the session's
mutual TLS does. Must not store or log a key. Sources: RFC 9180, draft-ietf-hpke-pq (ML-KEM-768 with
X25519), NIST SP 800-38D, ADR 0012.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cluster.protocol.errors import InvalidRequest, OpenFailed
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.wire import EnvelopeKey, Value, Values, VersionKey
from cluster.system import Entropy

ISSUE: Final = "issue"
"""Stands for the session where a secret is issued on request: its keys serve that request."""
_LABEL: Final = "strongroom node envelope 1"
_KEY_SIZE: Final = 32
_NONCE_SIZE: Final = 12
_X25519_SIZE: Final = 32

_PrivateKey = X25519PrivateKey | hpke.MLKEM768X25519PrivateKey
_PublicKey = X25519PublicKey | hpke.MLKEM768X25519PublicKey
OpenValue = Callable[["SealedValue"], SecretBytes]


class EnvelopeSuite(StrEnum):
    """How a message key is sealed, the stronger first; HKDF-SHA256 and AES-256-GCM in each."""

    HYBRID = "mlkem768-x25519"
    """Holds while either of ML-KEM-768 and X25519 does."""
    X25519 = "x25519"
    """For a library without ML-KEM."""


_HPKE: Final = {
    EnvelopeSuite.HYBRID: hpke.KEM.MLKEM768_X25519,
    EnvelopeSuite.X25519: hpke.KEM.X25519,
}


@dataclass(frozen=True, slots=True)
class SealedValue:
    """One value as it came, with all that it takes to open it but the node's key."""

    suite: str
    session_id: str
    sealed_key: bytes
    index: int
    """Its place in the message: the nonce."""
    secret_id: str
    version: int
    sealed: bytes


def staged(message: Values, suite: str, session_id: str) -> dict[VersionKey, SealedValue]:
    """Return what came in a message of a session that uses `suite`, still sealed."""
    return {
        VersionKey(one.secret_id, one.version): SealedValue(
            suite, session_id, message.sealed_key, index, one.secret_id, one.version, one.sealed
        )
        for index, one in enumerate(message.values)
    }


@dataclass(frozen=True, slots=True)
class _KeyPair:
    private: _PrivateKey
    public: bytes


class NodeKeys:
    """The key pairs of one agent process; they live in its memory alone."""

    def __init__(self, node_id: str, pairs: Mapping[EnvelopeSuite, _KeyPair]) -> None:
        self._node_id = node_id
        self._pairs = pairs

    @classmethod
    def generate(
        cls, node_id: str, suites: Iterable[EnvelopeSuite] = tuple(EnvelopeSuite)
    ) -> "NodeKeys":
        """Return fresh key pairs, one for each of `suites` that the library offers."""
        made = {suite: _new_pair(suite) for suite in suites}
        return cls(node_id, {suite: pair for suite, pair in made.items() if pair is not None})

    def public_keys(self) -> tuple[EnvelopeKey, ...]:
        """Return what a Hello offers, the strongest first."""
        return tuple(EnvelopeKey(suite, pair.public) for suite, pair in self._pairs.items())

    @contextmanager
    def opening(self) -> Iterator[OpenValue]:
        """Give a function that opens values; what it opened of message keys is wiped at the end.

        It raises OpenFailed for whatever was not sealed for this node, session and version.
        """
        message_keys: dict[tuple[str, bytes], SecretBytes] = {}

        def open_value(value: SealedValue) -> SecretBytes:
            opened = (value.session_id, value.sealed_key)
            if opened not in message_keys:
                message_keys[opened] = self._open_message_key(value)
            return _open(message_keys[opened], value)

        try:
            yield open_value
        finally:
            for key in message_keys.values():
                key.wipe()

    def _open_message_key(self, value: SealedValue) -> SecretBytes:
        try:
            suite = EnvelopeSuite(value.suite)
            info = _info(suite, self._node_id, value.session_id)
            key = _suite(suite).decrypt(value.sealed_key, self._pairs[suite].private, info)
        except (InvalidTag, ValueError, KeyError):
            raise OpenFailed from None
        return SecretBytes(key)


class Recipient:
    """The node's public key, for the manager that serves one of its sessions."""

    def __init__(
        self, suite: EnvelopeSuite, key: _PublicKey, node_id: str, session_id: str
    ) -> None:
        self.suite = suite
        self._key = key
        self._info = _info(suite, node_id, session_id)

    @classmethod
    def choose(cls, offered: Iterable[EnvelopeKey], node_id: str, session_id: str) -> "Recipient":
        """Return the strongest that both ends can use.

        Raises InvalidRequest where there is none: nothing is ever sent without an envelope.
        """
        keys = {one.suite: one.public_key for one in offered}
        for suite in EnvelopeSuite:
            if suite in keys and (key := _public_key(suite, keys[suite])) is not None:
                return cls(suite, key, node_id, session_id)
        raise InvalidRequest("values travel to a key of the node only; send an envelope key")

    def seal(self, values: Iterable[tuple[VersionKey, SecretBytes]], entropy: Entropy) -> Values:
        """Return a message that holds `values` for this node and session alone."""
        # The message key serves this message only and the index counts in it: no nonce repeats.
        message_key = entropy.token(_KEY_SIZE)
        cipher = AESGCM(message_key)
        try:
            sealed_key = _suite(self.suite).encrypt(message_key, self._key, self._info)
        except ValueError:
            # A point of low order, whose shared secret anybody can compute.
            raise InvalidRequest("the envelope key is not valid; make a fresh one") from None
        return Values(
            sealed_key=sealed_key,
            values=tuple(
                Value(
                    key.secret_id,
                    key.version,
                    cipher.encrypt(_nonce(index), value.reveal(), _associated(*_pair(key))),
                )
                for index, (key, value) in enumerate(values)
            ),
        )


def _open(message_key: SecretBytes, value: SealedValue) -> SecretBytes:
    try:
        cipher = AESGCM(message_key.reveal())
        associated = _associated(value.secret_id, value.version)
        return SecretBytes(cipher.decrypt(_nonce(value.index), value.sealed, associated))
    except (InvalidTag, ValueError):
        raise OpenFailed from None


def _suite(suite: EnvelopeSuite) -> hpke.Suite:
    return hpke.Suite(_HPKE[suite], hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def _info(suite: EnvelopeSuite, node_id: str, session_id: str) -> bytes:
    # msgpack tells where each part ends: no two lists encode alike.
    return msgspec.msgpack.encode((_LABEL, str(suite), node_id, session_id))


def _associated(secret_id: str, version: int) -> bytes:
    return msgspec.msgpack.encode((secret_id, version))


def _nonce(index: int) -> bytes:
    return index.to_bytes(_NONCE_SIZE)


def _pair(key: VersionKey) -> tuple[str, int]:
    return key.secret_id, key.version


def _new_pair(suite: EnvelopeSuite) -> _KeyPair | None:
    """Return a fresh key pair, or None where the library lacks the suite."""
    x25519 = X25519PrivateKey.generate()
    x25519_public = x25519.public_key().public_bytes_raw()
    if suite is EnvelopeSuite.X25519:
        return _KeyPair(x25519, x25519_public)
    try:
        mlkem = MLKEM768PrivateKey.generate()
    except UnsupportedAlgorithm:
        return None
    private = hpke.MLKEM768X25519PrivateKey(mlkem, x25519)
    return _KeyPair(private, mlkem.public_key().public_bytes_raw() + x25519_public)


def _public_key(suite: EnvelopeSuite, raw: bytes) -> _PublicKey | None:
    """Return a public key, or None where it is none, or the library lacks the suite."""
    try:
        x25519 = X25519PublicKey.from_public_bytes(raw[-_X25519_SIZE:])
        if suite is EnvelopeSuite.X25519:
            return x25519 if len(raw) == _X25519_SIZE else None
        mlkem = MLKEM768PublicKey.from_public_bytes(raw[:-_X25519_SIZE])
        return hpke.MLKEM768X25519PublicKey(mlkem, x25519)
    except (ValueError, UnsupportedAlgorithm):
        return None
