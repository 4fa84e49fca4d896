"""A signed checkpoint: where every audit chain stood at one revision, as one manager states it.

Owns the file's form, its signature and whom it is believed from; what the chains hold now is
compared elsewhere. The file is a DSSE envelope: the signature is over the very bytes in it and over
their type, so nothing is encoded anew to be checked, and what a manager signs for TLS is no
statement. Whoever has the cluster's control authorities checks it; no secret is needed. Source:
DSSE 1.0.2 (secure-systems-lab), ADR 0011.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Meta

from cluster.pki.csr import is_p256, key_from_pem
from cluster.pki.unreadable import UNREADABLE
from cluster.protocol.errors import InvalidRequest, PermissionDenied
from cluster.protocol.identity import Kind, SpiffeId
from cluster.protocol.ids import Incarnation
from cluster.protocol.undecodable import UNDECODABLE

PAYLOAD_TYPE: Final = "application/vnd.strongroom.audit-checkpoint+json"
FORMAT: Final = 1
MAX_BYTES: Final = 256 * 1024
_MALFORMED: Final = "this is no signed checkpoint; name a file of `strongroom audit checkpoint`"
_Text = Annotated[str, Meta(min_length=1, max_length=200)]
_Count = Annotated[int, Meta(ge=0, lt=2**62)]


class StatedHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where one chain stood."""

    chain: _Text
    """`audit/MANAGER/BOOT/LANE`."""
    last_link: Annotated[int, Meta(ge=1, lt=2**62)]
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    """SHA-256 of that link, hex."""


class AuditStatement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a manager states; proves nothing before `proven`."""

    format: Annotated[int, Meta(ge=FORMAT, le=FORMAT)] = FORMAT
    cluster_id: _Text
    trust_domain: _Text
    manager_id: _Text
    at: Annotated[float, Meta(ge=0, le=253_402_300_799)]
    """Unix seconds, by the manager's clock."""
    incarnation_counter: _Count
    incarnation_unique: _Text
    revision: _Count
    checkpoint: _Count
    """Number of the store's own checkpoint, behind which links were trimmed; 0: none."""
    chains: tuple[StatedHead, ...]
    """Of every chain in the store, by name."""

    @property
    def incarnation(self) -> Incarnation:
        """The life of the store in which it was made."""
        return Incarnation(self.incarnation_counter, self.incarnation_unique)


class _Signature(msgspec.Struct, frozen=True):
    sig: bytes
    """ECDSA on P-256 with SHA-256, DER."""
    certificates: tuple[bytes, ...]
    """DER: the manager's leaf, then what stands above it."""


class _Envelope(msgspec.Struct, frozen=True):
    payload: bytes
    payload_type: str = msgspec.field(name="payloadType")
    signatures: tuple[_Signature, ...]


def sign(statement: AuditStatement, key_pem: bytes, chain_pem: bytes, root_der: bytes) -> bytes:
    """Return the file of a statement, signed with a manager's own key."""
    payload = msgspec.json.encode(statement)
    chain = x509.load_pem_x509_certificates(chain_pem)
    ders = [certificate.public_bytes(Encoding.DER) for certificate in chain]
    if root_der not in ders:
        ders.append(root_der)
    signature = key_from_pem(key_pem).sign(_signed_bytes(payload), ec.ECDSA(hashes.SHA256()))
    return msgspec.json.encode(
        _Envelope(payload, PAYLOAD_TYPE, (_Signature(signature, tuple(ders)),))
    )


def proven(file: bytes, control: Iterable[bytes], trust_domain: str) -> AuditStatement:
    """Return the statement in a file, once it is known that a manager of this cluster signed it.

    `control`: DER of the control authorities that are believed; those in the file are not. The
    certificate must have been valid at the statement's time: it has a short life, the statement a
    long one. Raises InvalidRequest for what cannot be read, PermissionDenied for a signature that
    is not a manager's of this cluster.
    """
    envelope = _opened(file)
    (signature,) = envelope.signatures
    try:
        leaf = x509.load_der_x509_certificate(signature.certificates[0])
        key = leaf.public_key()
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        identity = SpiffeId.parse(uri)
        authorities = [x509.load_der_x509_certificate(der) for der in control]
    except (*UNREADABLE, IndexError, InvalidRequest):
        raise InvalidRequest("the signed checkpoint's certificate cannot be read") from None
    if not any(_is_issued(leaf, authority) for authority in authorities):
        raise PermissionDenied("the signed checkpoint's certificate is not of this cluster")
    if identity.kind is not Kind.MANAGER or identity.trust_domain != trust_domain:
        raise PermissionDenied("the checkpoint is signed by somebody who is no manager here")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not is_p256(key):
        raise PermissionDenied("the checkpoint is signed with a key of another kind")
    try:
        key.verify(signature.sig, _signed_bytes(envelope.payload), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise PermissionDenied("the signature of the checkpoint is not over what it says") from None
    statement = _statement(envelope.payload)
    _check_signer(statement, identity, leaf)
    return statement


def _check_signer(statement: AuditStatement, identity: SpiffeId, leaf: x509.Certificate) -> None:
    if (statement.manager_id, statement.trust_domain) != (identity.subject, identity.trust_domain):
        raise PermissionDenied("the signed checkpoint names another manager than its certificate")
    at = datetime.fromtimestamp(statement.at, UTC)
    if not leaf.not_valid_before_utc <= at <= leaf.not_valid_after_utc:
        raise PermissionDenied("the certificate was not valid when the checkpoint was signed")


def _opened(file: bytes) -> _Envelope:
    if len(file) > MAX_BYTES:
        raise InvalidRequest(_MALFORMED)
    try:
        envelope = msgspec.json.decode(file, type=_Envelope)
    except UNDECODABLE:
        raise InvalidRequest(_MALFORMED) from None
    if envelope.payload_type != PAYLOAD_TYPE or len(envelope.signatures) != 1:
        raise InvalidRequest(_MALFORMED)
    return envelope


def _statement(payload: bytes) -> AuditStatement:
    try:
        statement = msgspec.json.decode(payload, type=AuditStatement)
    except UNDECODABLE:
        raise InvalidRequest("the signed checkpoint is of a newer format") from None
    if len({head.chain for head in statement.chains}) != len(statement.chains):
        raise InvalidRequest("the signed checkpoint names a chain twice")
    return statement


def _signed_bytes(payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding: lengths keep type and payload apart."""
    return b"DSSEv1 %d %b %d %b" % (
        len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload,
    )  # fmt: skip


def _is_issued(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except UNREADABLE:
        return False
    return True
