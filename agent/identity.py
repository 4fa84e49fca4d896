"""Who this node is: its key, certificate, trust and managers, and how far it has come.

Owns the data directory (0700). The node key is made here and never leaves; a key that a request
was made with is stored before the request is sent, so that asking again asks for the same thing.
Identity is one file, replaced whole: key and certificate cannot come apart. Holds no secret of a
service. Source: DESIGN 5.
"""

import ssl
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agent import durable
from cluster.pki import csr
from cluster.pki.trust_bundle import TrustBundle
from cluster.pki.unreadable import UNREADABLE
from cluster.protocol.errors import IntegrityError, NotFound, PermissionDenied
from cluster.protocol.identity import Kind, SpiffeId
from cluster.protocol.undecodable import UNDECODABLE
from cluster.protocol.wire import RevisionPair

_FORMAT = 1
_Stored = TypeVar("_Stored")


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """A joined node."""

    name: str
    id: SpiffeId
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    chain: tuple[bytes, ...] = field(repr=False)
    """DER, leaf first."""
    bundle: TrustBundle = field(repr=False)
    managers: tuple[str, ...]
    join_addresses: tuple[str, ...]

    @property
    def chain_pem(self) -> bytes:
        """The chain as TLS takes it."""
        return "".join(ssl.DER_cert_to_PEM_cert(der) for der in self.chain).encode()

    @property
    def key_pem(self) -> bytes:
        """The key as TLS takes it; it goes nowhere else."""
        return csr.key_to_pem(self.key)

    @property
    def validity(self) -> tuple[datetime, datetime]:
        """From when until when the certificate holds."""
        leaf = x509.load_der_x509_certificate(self.chain[0])
        return leaf.not_valid_before_utc, leaf.not_valid_after_utc

    def with_certificate(
        self, key: ec.EllipticCurvePrivateKey, chain: tuple[bytes, ...], bundle: TrustBundle
    ) -> "AgentIdentity":
        """Return the identity with a new certificate for `key`.

        Raises PermissionDenied unless it is ours, under a control authority of the root we joined.
        """
        bundle.verify(self.bundle.root_digest())
        if check_leaf(chain, key, bundle) != self.id:
            raise PermissionDenied("the new certificate names another node; join again")
        return replace(self, key=key, chain=chain, bundle=bundle)


def check_leaf(
    chain: tuple[bytes, ...], key: ec.EllipticCurvePrivateKey, bundle: TrustBundle
) -> SpiffeId:
    """Return which node `chain` names, or raise PermissionDenied if it is not for `key` and from
    `bundle`.
    """
    leaf: x509.Certificate | None = None
    public_key: object = None
    with suppress(*UNREADABLE, IndexError):
        leaf = x509.load_der_x509_certificate(chain[0])
        public_key = leaf.public_key()
    if leaf is None or public_key != key.public_key():
        raise PermissionDenied("the certificate received is not for this node's key; ask again")
    if not any(_is_signed(leaf, x509.load_der_x509_certificate(ca)) for ca in bundle.control):
        raise PermissionDenied("the certificate received is not from this cluster")
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except UNREADABLE:
        raise PermissionDenied("the certificate received names nobody") from None
    identity = SpiffeId.parse(uris[0] if len(uris) == 1 else "")
    if identity.kind is not Kind.NODE:
        raise PermissionDenied("the certificate received is not a node's")
    return identity


def _is_signed(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except UNREADABLE:
        return False
    return True


class _StoredIdentity(msgspec.Struct, frozen=True, kw_only=True):
    format: int = _FORMAT
    name: str
    id: str
    key_pem: bytes
    chain: tuple[bytes, ...]
    bundle: TrustBundle
    managers: tuple[str, ...]
    join_addresses: tuple[str, ...]

    def __repr__(self) -> str:
        return f"_StoredIdentity(id={self.id!r})"


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A key and the certificate request made with it, until the certificate is here."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    csr: bytes


class _StoredRequest(msgspec.Struct, frozen=True, kw_only=True):
    key_pem: bytes
    csr: bytes

    def __repr__(self) -> str:
        return "_StoredRequest()"


class DataDirectory:
    """The agent's durable state; everything in it is replaced atomically."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity = path / "identity.json"
        self._request = path / "pending-request.json"
        self._highest = path / "highest-revision.json"

    def prepare(self) -> None:
        """Create the directory, or raise InvalidRequest if others can look into it."""
        durable.make_private(self.path)

    def load_identity(self) -> AgentIdentity | None:
        """Return the stored identity, or None before a join. Raises IntegrityError if it is
        damaged.
        """
        content = durable.read(self._identity)
        if content is None:
            return None
        stored = _decode(content, _StoredIdentity, self._identity)
        return AgentIdentity(
            name=stored.name,
            id=SpiffeId.parse(stored.id),
            key=csr.key_from_pem(stored.key_pem),
            chain=stored.chain,
            bundle=stored.bundle,
            managers=stored.managers,
            join_addresses=stored.join_addresses,
        )

    def fetch_identity(self) -> AgentIdentity:
        """Return the stored identity, or raise NotFound, which says how to join."""
        identity = self.load_identity()
        if identity is None:
            raise NotFound("this node has not joined; run `strongroom-agent join`")
        return identity

    def save_identity(self, identity: AgentIdentity) -> None:
        """Store the identity; the request it came from is settled by it."""
        stored = _StoredIdentity(
            name=identity.name,
            id=str(identity.id),
            key_pem=identity.key_pem,
            chain=identity.chain,
            bundle=identity.bundle,
            managers=identity.managers,
            join_addresses=identity.join_addresses,
        )
        durable.write(self._identity, msgspec.json.encode(stored))

    def pending_request(self) -> PendingRequest:
        """Return the request under way; make and store one if there is none."""
        content = durable.read(self._request)
        if content is not None:
            stored = _decode(content, _StoredRequest, self._request)
            return PendingRequest(csr.key_from_pem(stored.key_pem), stored.csr)
        key = csr.new_key()
        request = _StoredRequest(key_pem=csr.key_to_pem(key), csr=csr.make_csr(key))
        durable.write(self._request, msgspec.json.encode(request))
        return PendingRequest(key, request.csr)

    def settle_request(self) -> None:
        """Forget the pending request: its certificate is stored."""
        durable.remove(self._request)

    def load_highest(self) -> RevisionPair | None:
        """Return the highest revision ever accepted."""
        content = durable.read(self._highest)
        return None if content is None else _decode(content, RevisionPair, self._highest)

    def save_highest(self, revision: RevisionPair) -> None:
        """Store the highest revision ever accepted."""
        durable.write(self._highest, msgspec.json.encode(revision))


def _decode(content: bytes, kind: type[_Stored], path: Path) -> _Stored:
    try:
        return msgspec.json.decode(content, type=kind)
    except UNDECODABLE:
        raise IntegrityError(
            f"{path} is damaged; remove the data directory and join again"
        ) from None
